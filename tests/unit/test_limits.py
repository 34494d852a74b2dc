from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import KernelError, host, limits
from check_conntrack.kernel.limits import NEW, OLD, Limits, number, parse_limits, read_limits
from check_conntrack.kernel.source import FileReading


def holding(data, path="/proc/x"):
    return FileReading(path, data)


def failing(code, path="/proc/x"):
    return FileReading(path, errno=code)


@given(st.integers(0, 2**32 - 1))
def test_a_sysctl_holds_any_number_of_32_bits(value):
    assert number(holding(b"%d\n" % value)) == value


TRACE = limits.conntrack_trace  # the sysctls fixture replaces it
BAD = [
    b"",
    b"\n",
    b" ",
    b"abc\n",
    b"-1\n",
    b"1" * 30,
    b"4294967296\n",
    b"1 2\n",
    b"1\n2\n",
    b"0x10",
]
BAD += [b"1_0", b"+1", b"1.0", b"\xd9\xa1", b"\x00", b"1\x00", b"\xff\xfe", b"|\x1b[31m"]


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_number_of_32_bits_is_refused_with_the_path(data):
    with pytest.raises(KernelError, match=r"^/proc/x: (malformed \('.*'(\.\.\.)?\)|empty)$"):
        number(holding(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_number_or_are_refused(data):
    try:
        value = number(holding(data))
    except KernelError as error:
        said = str(error)
        assert said.isascii()
        assert len(said) < 160
    else:
        assert data.strip(b" \t\n").isdigit()
        assert 0 <= value < 2**32


def test_a_file_that_cannot_be_read_is_named_with_the_reason():
    with pytest.raises(KernelError, match=r"^/proc/x: Permission denied$"):
        number(failing(errno.EACCES))


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR])
def test_without_a_count_conntrack_is_not_active(code):
    assert parse_limits(failing(code), holding(b"5"), None) is None


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ELOOP])
def test_a_count_that_is_there_and_cannot_be_read_is_an_error(code):
    with pytest.raises(KernelError):
        parse_limits(failing(code), holding(b"5"), None)


@pytest.mark.parametrize("limit", [failing(errno.ENOENT), holding(b"abc"), holding(b"")])
def test_a_count_without_a_limit_that_can_be_read_is_an_error(limit):
    with pytest.raises(KernelError):
        parse_limits(holding(b"5"), limit, None)


def test_buckets_that_cannot_be_read_are_a_fault_and_hide_nothing():
    for buckets in (failing(errno.EACCES), holding(b"abc")):
        read = parse_limits(holding(b"5"), holding(b"6"), buckets)
        assert read[:3] == (5, 6, None)
        assert read.fault.startswith("/proc/x: ")


@pytest.mark.parametrize("buckets", [None, failing(errno.ENOENT), holding(b"0\n")])
def test_buckets_that_are_not_told_are_no_fault(buckets):
    assert parse_limits(holding(b"5"), holding(b"6"), buckets)[:4] == (5, 6, None, "")


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**32 - 1))
def test_usage_is_full_exactly_when_the_table_is(entries, limit):
    read = Limits(entries, limit)
    assert (read.usage >= 100) == read.full == (entries >= limit)
    assert read.usage == pytest.approx(entries / limit * 100)


def test_without_a_limit_there_is_no_usage_and_nothing_is_full():
    assert Limits(5, 0).usage is None
    assert not Limits(5, 0).full


def test_the_names_of_the_present_come_before_those_of_old(sysctls):
    sysctls.holds(5, 10, 512)
    sysctls.update({OLD + "count": b"6", OLD + "max": b"7"})
    assert read_limits() == (5, 10, 512, "", NEW)


def test_old_kernels_are_read_by_their_own_names(sysctls):
    sysctls.holds(5, 10, 512, base=OLD)
    assert read_limits() == (5, 10, 512, "", OLD)
    sysctls.holds(5, 10, base=OLD)
    assert read_limits() == (5, 10, None, "", OLD)


def test_a_new_count_that_cannot_be_read_is_not_passed_over_for_an_old_one(sysctls):
    sysctls.holds(5, 10, base=OLD)
    sysctls[NEW + "count"] = errno.EACCES
    with pytest.raises(KernelError, match="nf_conntrack_count: "):
        read_limits()


def test_neither_name_means_inactive(sysctls):
    sysctls.clear()
    assert read_limits() is None


@pytest.mark.parametrize("trace", [*limits.TRACES, limits.MODULES])
def test_missing_sysctls_are_hidden_where_anything_shows_that_conntrack_is_active(
    sysctls, monkeypatch, trace
):
    sysctls.clear()
    monkeypatch.setattr(limits, "conntrack_trace", TRACE)
    monkeypatch.setattr(os.path, "exists", lambda path: path == trace)
    loaded = b"x_tables 1 2 - Live 0x0\nnf_conntrack 1 2 - Live 0x0\n"
    modules = loaded if trace == limits.MODULES else b"nf_conntrack_ftp 1 0 - Live 0x0\n"
    monkeypatch.setattr(limits, "read_long_file", lambda path: FileReading(path, modules))
    with pytest.raises(limits.HiddenError, match=f"hidden, although {trace} shows"):
        read_limits()
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    monkeypatch.setattr(limits, "read_long_file", lambda path: FileReading(path, modules[:20]))
    assert read_limits() is None


def test_without_proc_nothing_is_said_about_conntrack(sysctls, monkeypatch):
    sysctls.clear()
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    with pytest.raises(KernelError, match="is /proc mounted"):
        read_limits()


def test_whether_the_sysctls_can_be_set_is_told_by_their_mode(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "NEW", str(tmp_path / "nf_"))
    assert not limits.may_set_limits()
    assert not limits.buckets_sysctl_writable()
    for name, asked in (
        ("max", limits.may_set_limits),
        ("buckets", limits.buckets_sysctl_writable),
    ):
        file = tmp_path / ("nf_" + name)
        file.touch()
        file.chmod(0o444)
        assert not asked()
        file.chmod(0o644)
        assert asked()


def memory(monkeypatch, data):
    monkeypatch.setattr(host, "read_file", lambda path, most=4096: FileReading(path, data))
    return host.available_memory()


def test_the_memory_that_is_available_is_told_in_bytes(monkeypatch):
    assert memory(monkeypatch, b"MemTotal: 9 kB\nMemAvailable:    2048 kB\nX: 1\n") == 2 << 20
    assert memory(monkeypatch, b"MemTotal: 9 kB\n") is None
    assert memory(monkeypatch, b"") is None


def test_kube_proxy_is_known_by_the_name_of_its_process(monkeypatch):
    processes = {"/proc/1/comm": b"systemd\n", "/proc/20/comm": b"kube-proxy-like\n"}
    monkeypatch.setattr(os, "listdir", lambda path: ["1", "20", "self", "meminfo"])
    monkeypatch.setattr(
        host, "read_file", lambda path, most=4096: FileReading(path, processes.get(path, b""))
    )
    assert not host.runs_kube_proxy()
    for name in (b"kube-proxy\n", b"k3s-server\n"):
        processes["/proc/20/comm"] = name
        assert host.runs_kube_proxy()


def test_processes_that_are_hidden_are_no_kube_proxy(monkeypatch):
    def hidden(path):
        raise PermissionError

    monkeypatch.setattr(os, "listdir", hidden)
    assert not host.runs_kube_proxy()


def test_this_process_has_a_namespace_of_its_own(monkeypatch):
    assert limits.own_inode() == os.stat("/proc/self/ns/net").st_ino

    def hidden(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", hidden)
        with pytest.raises(KernelError) as error:
            limits.own_inode()
    assert str(error.value) == "/proc/self/ns/net: Permission denied"
