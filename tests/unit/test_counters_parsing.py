"""Counters as text and over netlink."""

from __future__ import annotations

import contextlib
import errno
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel import counters as ct

DATA = Path(__file__).parent.parent / "data" / "counters"
NEW = (DATA / "linux-6.18").read_bytes()
OLD = (DATA / "linux-3.10").read_bytes()


def test_text_is_read_by_the_names_of_its_header():
    found = ct.parse_text(NEW)
    assert found.entries == 42
    assert found.cpus[0] == ct.CpuCounters(0, 2, 3, 5, 6, 7, 8, 9, 13, 1, 4, 10, 11, 12)
    assert found.cpus[1].search_restart == 0xFFFFFFFF
    assert [cpu.cpu for cpu in found.cpus] == [0, 1]


def test_text_of_old_kernels_has_fewer_counters():
    [cpu] = ct.parse_text(OLD).cpus
    assert (cpu.drop, cpu.early_drop, cpu.insert_failed) == (0x1A, 0x1B, 0x19)
    assert (cpu.clash_resolve, cpu.chaintoolong, cpu.search_restart) == (None, None, None)


def test_text_columns_may_be_in_any_order():
    swapped = b"entries drop unheard_of insert_failed\n00000001 00000002 00000003 00000004\n"
    [cpu] = ct.parse_text(swapped).cpus
    assert (cpu.drop, cpu.insert_failed, cpu.found) == (2, 4, None)


def test_total_is_over_all_cpus_and_keeps_unknown_counters():
    assert ct.total(ct.parse_text(NEW)).drop == 0x77
    assert ct.total(ct.parse_text(OLD)).chaintoolong is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"nonsense\n",
        NEW.splitlines()[0],
        NEW.replace(b"00000007", b"0000000g"),
        NEW.replace(b"00000007", b"-0000007"),
        NEW.replace(b"00000007", b"0x000007"),
        NEW.replace(b"00000007", b"000_0007"),
        NEW.replace(b"00000007", b"100000007"),
        NEW.replace(b"00000007 ", b""),
        NEW[:-9],
    ],
)
def test_malformed_text_is_an_error(text):
    with pytest.raises(ct.CountersError):
        ct.parse_text(text)


@given(st.binary())
def test_any_text_gives_counters_or_an_error(text):
    try:
        ct.parse_text(text)
    except ct.CountersError:
        return


def test_missing_file_and_malformed_file_raise_different_errors(tmp_path):
    path = tmp_path / "nf_conntrack"
    with pytest.raises(FileNotFoundError):
        ct.read_text(str(path))
    path.write_bytes(NEW)
    assert ct.read_text(str(path)) == ct.parse_text(NEW)


# --- netlink


def message(kind, body, res_id=0):
    payload = struct.pack(">BBH", 0, 0, res_id) + body
    return struct.pack("=IHHII", 16 + len(payload), 0x100 | kind, 2, 1, 9) + payload


def attributes(**values):
    return b"".join(
        struct.pack("=HH", 8, int(kind[1:])) + struct.pack(">I", value)
        for kind, value in values.items()
    )


DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 9, 0)
CPU = ct.IPCTNL_MSG_CT_GET_STATS_CPU


def refusal(code):
    return struct.pack("=IHHIIi", 36, 2, 0, 1, 9, -code) + b"\0" * 16


def test_stats_cpu_has_the_cpu_in_res_id_and_big_endian_values():
    replies = (
        message(CPU, attributes(_10=7, _9=1, _15=2, _14=3), 1)
        + message(CPU, attributes(_10=0xFFFFFFFE), 0)
        + DONE
    )
    found = ct.parse_stats_cpu(replies)
    assert [cpu.cpu for cpu in found.cpus] == [1, 0]
    assert found.cpus[0][:] == ct.CpuCounters(
        1, insert_failed=1, drop=7, clash_resolve=3, chaintoolong=2
    )
    assert found.cpus[1].drop == 0xFFFFFFFE


def test_stats_cpu_ignores_unknown_and_retired_attributes():
    body = attributes(_1=5, _3=5, _99=5, _10=7) + struct.pack("=HH", 5, 10) + b"x\0\0\0"
    [cpu] = ct.parse_stats_cpu(message(CPU, body) + DONE).cpus
    assert cpu == ct.CpuCounters(0, drop=7)


def test_stats_cpu_messages_start_on_four_bytes():
    odd = message(CPU, attributes(_10=7) + struct.pack("=HH", 5, 99) + b"x", 0)
    assert len(odd) % 4 == 1
    cpus = ct.parse_stats_cpu(odd + b"\0\0\0" + message(CPU, attributes(_10=8), 1) + DONE).cpus
    assert [(cpu.cpu, cpu.drop) for cpu in cpus] == [(0, 7), (1, 8)]


def test_stats_cpu_ignores_flags_of_attribute_types():
    body = struct.pack("=HH", 8, 0x4000 | 10) + struct.pack(">I", 7)
    assert ct.parse_stats_cpu(message(CPU, body) + DONE).cpus[0].drop == 7


def test_stats_cpu_refusal_has_its_error_number():
    with pytest.raises(ct.NetlinkError) as caught:
        ct.parse_stats_cpu(refusal(errno.EPERM))
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize(
    "replies",
    [
        b"",
        DONE,
        message(CPU, attributes(_10=7)),
        message(CPU, attributes(_10=7)) + DONE[:10],
        message(CPU, attributes(_10=7))[:-2] + DONE,
        message(CPU, struct.pack("=HH", 3, 10)) + DONE,
        message(CPU, struct.pack("=HH", 80, 10)) + DONE,
        struct.pack("=IHHII", 16, 0x104, 0, 0, 0) + DONE,
        struct.pack("=IHHII", 3, 0x104, 0, 0, 0) + DONE,
        struct.pack("=IHHII", 16, 2, 0, 0, 0),
    ],
)
def test_stats_cpu_truncated_or_malformed_is_an_error(replies):
    with pytest.raises(ct.CountersError):
        ct.parse_stats_cpu(replies)


@given(st.binary(), st.sampled_from([b"", message(CPU, attributes(_10=7)), DONE]))
def test_stats_cpu_of_any_bytes_gives_counters_or_an_error(data, before):
    with contextlib.suppress(ct.CountersError, ct.NetlinkError):
        ct.parse_stats_cpu(before + data)


@given(st.integers(0, 200), st.integers(0, 255))
def test_stats_cpu_with_one_wrong_byte_gives_counters_or_an_error(at, value):
    replies = bytearray(
        message(CPU, attributes(_10=7, _9=1), 1) + message(CPU, attributes(_10=3), 0) + DONE
    )
    replies[at % len(replies)] = value
    try:
        ct.parse_stats_cpu(bytes(replies))
    except (ct.CountersError, ct.NetlinkError):
        return
