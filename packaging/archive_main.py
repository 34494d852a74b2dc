"""The `__main__` of an archive with a check; CHECK is replaced by its name."""

import sys

# The modules compiled for this interpreter come first; others are found as source.
sys.path.insert(0, sys.path[0] + "/" + (sys.implementation.cache_tag or "none"))

from check_conntrack.launch import launch


def install_reader():
    """Write the reader where sudo may start it; returns what went wrong, else None.

    Only where nobody but root can write, and never through a link.
    """
    import os
    import stat

    from check_conntrack.kernel.reader_command import READER_OF_ARCHIVE, archived_reader

    folder = os.path.dirname(READER_OF_ARCHIVE)
    fresh = READER_OF_ARCHIVE + ".new"
    try:
        if not os.path.lexists(folder):
            os.mkdir(folder)
            os.chmod(folder, 0o755)
        part = folder
        while True:
            status = os.lstat(part)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid or status.st_mode & 0o022:
                return part + " is not a directory that only root may change"
            if part == "/":
                break
            part = os.path.dirname(part)
        if os.path.lexists(fresh):
            os.unlink(fresh)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(archived_reader())
            file.flush()
            os.fchmod(descriptor, 0o755)
        os.rename(fresh, READER_OF_ARCHIVE)
    except OSError as error:
        return str(error)
    return None


if sys.argv[1:] == ["--install-reader"]:
    sys.exit(install_reader())
sys.exit(launch("CHECK"))
