from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from nagiosplugin import Critical, Metric, Ok, Range, Resource, Warn

from check_conntrack import ranges
from check_conntrack.nagios import LabelContext
from check_conntrack.ranges import (
    Label,
    LabelThresholds,
    ThresholdError,
    parse_range,
    parse_thresholds,
)
from support import perfdata

USAGE = Label("usage", "", "%", 1, warning="80", critical="90")
ENTRIES = Label("entries", "", share_of="limit")
PART = Label("tcp", "", share_of="entries")
PLAIN = Label("limit", "")
SIGNED = Label("growth", "", decimals=2, minimum=None)
TIME = Label("time_to_full", "", "s")
LABELS = (USAGE, ENTRIES, PLAIN, SIGNED, TIME)
INFINITY = float("inf")


def numbers(low=0, high=200, decimals=1):
    scale = 10**decimals
    return st.integers(low * scale, high * scale).map(lambda n: ranges.plain(n / scale))


def well_formed_ranges(number):
    """Well-formed ranges, not reversed."""
    pair = st.tuples(number, number).map(lambda two: sorted(two, key=float))
    return st.tuples(
        st.sampled_from(["", "@"]),
        st.one_of(
            number.map(lambda text: text.lstrip("-")),
            number.map("{}:".format),
            number.map("~:{}".format),
            st.just("~:"),
            pair.map(lambda two: f"{two[0]}:{two[1]}"),
        ),
    ).map("".join)


def state(warning, critical, value, label=USAGE, most=None, whole=None):
    """The verdict on a value, and the item of performance data for it."""
    limits = LabelThresholds(
        parse_range(warning, label) if warning else None,
        parse_range(critical, label) if critical else None,
    )
    context = LabelContext(label, limits)
    resource = Resource()
    resource.total_entries = whole
    metric = Metric(label.name, value, min=label.minimum, max=most, context=label.name)
    metric = metric.replace(contextobj=context, resource=resource)
    result = context.evaluate(metric, resource)
    [item] = perfdata.parse(str(context.performance(metric, resource))).values()
    assert context.print_value(metric, resource) == item.text + label.unit
    return result.state, item


# --- the grammar


@pytest.mark.parametrize(
    ("text", "alerting", "quiet"),
    [
        ("10", [-0.1, 10.1], [0, 10]),
        ("10:", [9.9, -5], [10, 1e9]),
        ("~:10", [10.1], [-1e9, 10]),
        ("10:20", [9.9, 20.1], [10, 20]),
        ("@10:20", [10, 20], [9.9, 20.1]),
        ("@10", [0, 10], [-0.1, 10.1]),
        ("~:", [], [-1e9, 0, 1e9]),
        ("0", [-0.1, 0.1], [0]),
        ("-5:5", [-5.1, 5.1], [-5, 5]),
        ("0.5:1.25", [0.4, 1.3], [0.5, 1.25]),
    ],
)
def test_a_range_alerts_as_the_draft_says(text, alerting, quiet):
    for value in alerting:
        assert state(text, "", value, SIGNED)[0] is Warn
        assert state("", text, value, SIGNED)[0] is Critical
    for value in quiet:
        assert state(text, text, value, SIGNED)[0] is Ok


@given(well_formed_ranges(numbers(-50, 50)), st.integers(-100, 100))
def test_a_range_means_what_nagiosplugin_means_by_it(text, value):
    assert (state(text, "", value, SIGNED)[0] is Ok) == Range(text).match(value)


LOOSE = [
    *(
        "",
        " ",
        "@",
        ":",
        "@:",
        "~",
        "10:20:30",
        ":10",
        "1_000",
        "1e3",
        "+5",
        "0x10",
        ".5",
        "5.",
        "--5",
    ),
    *("ten", "nan", "inf", "10 ", " 10", "10\n", "10;20", "1,5", "@@10", "10~", "~10", "~:~"),
    *("\u0661\u0660", "\uff11\uff10", "1\u00a0000", "10:\u0662", "\x00", "9" * 16, "1." + "1" * 10),
]


@pytest.mark.parametrize("text", LOOSE)
def test_nothing_looser_than_the_draft_is_a_range(text):
    with pytest.raises(ThresholdError, match=r"invalid range .* for growth"):
        parse_range(text, SIGNED)


@given(st.text(st.sampled_from("0123456789.:~@-%smhd_ +e\n\u0661"), max_size=8))
def test_any_text_is_a_range_or_is_refused(text):
    try:
        bounds = parse_range(text, TIME)
    except ThresholdError:
        return
    assert re.fullmatch(r"@?((~|-?[\d.]+[smhd]?):)?(-?[\d.]+[smhd]?)?", text, re.ASCII)
    assert bounds.start <= bounds.end


@pytest.mark.parametrize("text", ["20:10", "@20:10", "1:0.9", "0:-1", "-1", "1h:59m"])
def test_a_reversed_range_is_refused(text):
    with pytest.raises(ThresholdError, match=r"invalid range .* is greater than \S"):
        parse_range(text, TIME)


# --- units


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("4h:", 14400, INFINITY),
        ("30m:", 1800, INFINITY),
        ("90s:2d", 90, 172800),
        ("1.5h:", 5400, INFINITY),
        ("60", 0, 60),
        ("~:1d", -INFINITY, 86400),
    ],
)
def test_a_time_takes_seconds_minutes_hours_and_days(text, start, end):
    assert parse_range(text, TIME)[1:3] == (start, end)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("80s", USAGE),
        ("80%", TIME),
        ("80%", PLAIN),
        ("80%", SIGNED),
        ("5m", ENTRIES),
        ("5d:9d", PLAIN),
    ],
)
def test_a_unit_that_does_not_fit_the_label_is_refused(text, label):
    with pytest.raises(ThresholdError, match=f"{label.name} takes "):
        parse_range(text, label)


def test_percent_is_the_unit_of_a_percentage():
    assert parse_range("80%", USAGE)[1:] == parse_range("80", USAGE)[1:]


def test_percent_makes_a_count_a_share_of_the_limit():
    assert state("80%", "90%", 8001, ENTRIES, most=10000)[0] is Warn
    assert state("80%", "90%", 8000, ENTRIES, most=10000)[0] is Ok
    reached, item = state("80%", "90%", 9001, ENTRIES, most=10000)
    assert (reached, item.warn, item.crit) == (Critical, "8000", "9000")


def test_percent_makes_a_part_a_share_of_all_entries():
    reached, item = state("5%", "", 51, PART, most=99999, whole=1000)
    assert (reached, item.warn) == (Warn, "50")


@pytest.mark.parametrize("whole", [None, 0])
def test_a_share_of_a_whole_that_is_not_known_does_not_fire_and_is_not_printed(whole):
    reached, item = state("5%", "1%", 10**6, ENTRIES, most=whole)
    assert (reached, item.warn, item.crit) == (Ok, "", "")


@pytest.mark.parametrize("text", ["10%:20", "10:20%", "@1:2%"])
def test_bounds_of_two_kinds_in_one_range_are_refused(text):
    with pytest.raises(ThresholdError, match="must have the same unit"):
        parse_range(text, ENTRIES)


@pytest.mark.parametrize("text", ["0:5%", "~:5%", "5%:", "0%:5%"])
def test_nothing_and_the_infinite_fit_a_share(text):
    assert parse_range(text, ENTRIES).share


# --- which range holds for which label


def parsed(*specs):
    return parse_thresholds(
        LABELS, [s[3:] for s in specs if s[1] == "w"], [s[3:] for s in specs if s[1] == "c"]
    )


def spelled(limits):
    return tuple(bounds.text if bounds else None for bounds in limits)


def test_a_range_without_a_label_is_for_the_main_metric():
    assert spelled(parsed("-w 70", "-c 75").of["usage"]) == ("70", "75")


def test_labels_have_their_defaults_until_they_are_named():
    of = parsed("-w limit=5:").of
    assert spelled(of["usage"]) == ("80", "90")
    assert spelled(of["limit"]) == ("5:", None)
    assert spelled(of["entries"]) == (None, None)


def test_naming_a_label_replaces_its_default_and_no_other():
    assert spelled(parsed("-w usage=~:").of["usage"]) == ("~:", "90")
    assert spelled(parsed("-w usage=~:", "-c usage=~:").of["usage"]) == ("~:", "~:")


def test_of_two_ranges_for_one_label_the_last_holds():
    assert spelled(parsed("-w 10", "-w usage=20").of["usage"]) == ("20", "90")


def test_the_labels_that_were_named_are_told():
    assert parsed("-w growth=5", "-c 95").given == {"growth", "usage"}


@pytest.mark.parametrize(
    "spec", ["bogus=5", "Usage=5", "usage =5", "usage=5=5", "=5", "usage::x=5"]
)
def test_an_unknown_label_is_refused_with_the_known_ones(spec):
    with pytest.raises(ThresholdError) as error:
        parsed("-w " + spec)
    assert all(label.name in str(error.value) for label in LABELS)


# --- a warning that could never fire


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (["-w 95", "-c 90"], "'95' of usage can never fire: the critical range '90' covers it"),
        (["-w 95"], "'95' of usage can never fire: the default critical range '90' covers it"),
        (["-w growth=-2:10", "-c growth=-1:5"], "the critical range '-1:5' covers it"),
        (["-w limit=5:", "-c limit=6:"], "the critical range '6:' covers it"),
        (["-w time_to_full=30m:", "-c time_to_full=4h:"], "the critical range '4h:' covers it"),
        (["-w entries=95%", "-c entries=90%"], "the critical range '90%' covers it"),
        (["-w @95:99"], "the default critical range '90' covers it"),
        (["-w entries=50%", "-c entries=0"], "the critical range '0' covers it"),
    ],
)
def test_a_warning_beyond_its_critical_range_is_refused_and_both_are_named(specs, words):
    with pytest.raises(ThresholdError) as error:
        parsed(*specs)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "specs",
    [
        ["-w 90"],
        ["-w 90", "-c 90"],
        ["-w 90%", "-c 90.0"],
        ["-w ~:90", "-c 90"],
        ["-w usage=~:"],
        ["-w 80", "-c 90:"],
        ["-w time_to_full=4h:", "-c time_to_full=30m:"],
        ["-w entries=5000", "-c entries=10%"],
        ["-w @50:95"],
        ["-w growth=-5:5", "-c growth=10"],
    ],
)
def test_equal_ranges_and_those_that_can_fire_are_fine(specs):
    assert parsed(*specs)


@pytest.mark.parametrize("critical", ["70", "79.9", "0", "50:60"])
def test_a_default_warning_gives_way_in_silence_to_a_tighter_critical(critical):
    assert spelled(parsed("-c " + critical).of["usage"]) == (None, critical)


@pytest.mark.parametrize("critical", ["80", "85", "~:", "@95:", "50:"])
def test_a_default_warning_stays_where_it_can_fire_or_is_equal(critical):
    assert spelled(parsed("-c " + critical).of["usage"]) == ("80", critical)


CANDIDATES = [n / 4 for n in range(-60, 61)]


SIGNED_RANGES = well_formed_ranges(numbers(-10, 10, 0))
RANGES = well_formed_ranges(numbers(0, 10, 0))


@given(
    st.one_of(
        st.tuples(st.just(SIGNED), SIGNED_RANGES, SIGNED_RANGES),
        st.tuples(st.just(PLAIN), RANGES, RANGES),
    )
)
@example((PLAIN, "~:5", "5"))
@example((PLAIN, "@3:4", "4:"))
def test_refused_is_exactly_a_warning_that_no_value_reaches(case):
    label, warning, critical = case
    values = [v for v in CANDIDATES if label.minimum is None or v >= label.minimum]
    warns = [v for v in values if not Range(parse_range(warning, label).text).match(v)]
    crits = [v for v in values if not Range(parse_range(critical, label).text).match(v)]
    never = bool(warns) and set(warns) < set(crits)
    # A range that itself alerts on nothing is the user's way to say "never".
    assume(warns or "~:" in (warning, critical) or label is SIGNED)
    try:
        parse_thresholds((label,), [warning], [critical])
    except ThresholdError:
        assert never
    else:
        assert not never


# --- what is printed is what was judged


@given(
    st.integers(1, 2**32 - 1),
    st.floats(0, 1.2),
    well_formed_ranges(numbers(0, 120, 3)),
    well_formed_ranges(numbers(0, 120, 3)),
)
@example(10**9, 0.9 - 1e-9, "80", "90")
@example(2**32 - 1, 1 - 2**-32, "80", "90")
def test_a_printed_usage_gets_the_verdict_of_the_usage(limit, share, warning, critical):
    entries = int(limit * share)
    reached, item = state(warning, critical, 100 * entries / limit, USAGE, most=100)
    again = Critical if item.alerts(item.crit) else Warn if item.alerts(item.warn) else Ok
    assert again is reached
    assert (item.value >= 100) == (entries >= limit), "full is what is full"
    assert (item.value > 100) == (entries > limit)


@given(
    st.integers(-(2**32), 2**32),
    st.integers(300, 10**6),
    well_formed_ranges(numbers(-100, 100, 9)),
    well_formed_ranges(numbers(-100, 100, 9)),
)
@example(10000, 300, "33.333333333", "33.333333333")
@example(-1, 1000, "0:", "~:")
def test_a_printed_growth_gets_the_verdict_of_the_growth(entries, seconds, warning, critical):
    value = entries / seconds
    reached, item = state(warning, critical, value, SIGNED)
    again = Critical if item.alerts(item.crit) else Warn if item.alerts(item.warn) else Ok
    assert again is reached


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (85.0, "85.0"),
        (84.04, "84.0"),
        (89.96, "90.0"),
        (90.04, "90.04"),
        (90.0000001, "90.0000001"),
        (80.01, "80.01"),
        (99.96, "99.96"),
        (100.0, "100.0"),
        (100.004, "100.004"),
        (120.0, "120.0"),
        (0.0, "0.0"),
    ],
)
def test_a_usage_has_one_decimal_or_as_many_as_its_verdict_needs(value, text):
    assert state("80", "90", value, USAGE, most=100)[1].text == text


def test_zero_has_no_sign():
    assert state("", "", -0.0001, SIGNED)[1].text == "0.00"


@given(st.floats(-1e15, 1e15))
def test_a_plain_number_has_no_exponent_and_no_needless_zeros(value):
    text = ranges.plain(value)
    assert re.fullmatch(perfdata.NUMBER, text)
    assert abs(float(text) - value) <= 1e-9 + abs(value) * 1e-15
    assert not re.search(r"\.\d*0$", text)
    assert text != "-0"


@given(well_formed_ranges(numbers(0, 10**6, 0)), st.integers(0, 10**6))
def test_a_printed_range_is_the_one_that_was_given(text, value):
    _, item = state(text, text, value, PLAIN)
    assert item.alerts(item.warn) == item.alerts(item.crit) == (not Range(text).match(value))


def test_a_quiet_context_judges_and_prints_nothing():
    context = LabelContext(USAGE, LabelThresholds(None, parse_range("90", USAGE)), hidden=True)
    metric = Metric("usage", 95.0, context="hidden usage")
    assert context.name == "hidden usage"
    assert context.evaluate(metric, Resource()).state is Critical
    assert context.performance(metric, Resource()) is None


def test_outside_tells_whether_a_value_would_have_had_that_state():
    bounds = LabelThresholds(parse_range("80", USAGE), parse_range("90", USAGE))
    context = LabelContext(USAGE, bounds)
    assert [context.violates(Warn, value) for value in (80, 81, 91)] == [False, True, True]
    assert [context.violates(Critical, value) for value in (80, 81, 91)] == [False, False, True]
    shares = LabelContext(ENTRIES, LabelThresholds(None, parse_range("5%", ENTRIES)))
    assert not shares.violates(Critical, 10**9)


# --- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("4h", 14400),
        ("30d", 2592000),
        ("0.5h", 1800),
        ("0", 0),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert ranges.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", "1w", "m", "1 h", "1h30m", "1_0", "\u0661", "nan", "5m\n", "9" * 10]
)
def test_nothing_else_is_a_duration(text):
    with pytest.raises(ThresholdError, match="invalid duration"):
        ranges.parse_duration(text)


def test_every_unit_of_a_label_is_named_in_its_error():
    for label, unit in itertools.product((USAGE, TIME, PLAIN), ("%", "h")):
        if unit not in label.units:
            with pytest.raises(ThresholdError, match=" or ".join(label.units) or "no unit"):
                parse_range("5" + unit, label)
