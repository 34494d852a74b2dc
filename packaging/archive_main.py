"""What runs first in an archive that holds a check: its `__main__`, with the name for CHECK."""

import sys

# What this interpreter finds compiled is there; what it does not, it finds as source.
sys.path.insert(0, sys.path[0] + "/" + (sys.implementation.cache_tag or "none"))

from check_conntrack.launch import launch


def install_reader():
    """Put the reader where sudo may start it; returns what went wrong, None where nothing did.

    Only where none but root can have put anything, and never through a link.
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
                return part + " is no folder that only root may change"
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
