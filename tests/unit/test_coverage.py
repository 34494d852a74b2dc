from hypothesis import given
from hypothesis import strategies as st

from check_conntrack.kernel.coverage import TOLERANCE, Span, clip, covered_since, gaps, union

times = st.integers(0, 1000)
spans = st.lists(st.tuples(times, times).map(lambda pair: Span(min(pair), max(pair))), max_size=8)
windows = st.tuples(times, times).map(lambda pair: Span(min(pair), max(pair)))


def inside(moment, some):
    return any(span.start <= moment <= span.end for span in some)


def test_union_joins_spans_that_overlap_or_touch():
    assert union([Span(5, 9), Span(1, 3), Span(3.5, 5)]) == (Span(1, 9),)


def test_union_keeps_spans_apart_that_do_not_touch():
    assert union([Span(5, 9), Span(1, 3)]) == (Span(1, 3), Span(5, 9))


def test_gaps_of_nothing_is_the_whole_window():
    assert gaps([], Span(10, 20)) == (Span(10, 20),)


def test_gaps_names_each_hole_oldest_first():
    assert gaps([Span(12, 14), Span(16, 17)], Span(10, 20)) == (
        Span(10, 12),
        Span(14, 16),
        Span(17, 20),
    )


def test_gaps_ignores_a_hole_within_the_tolerance():
    assert gaps([Span(10.5, 20)], Span(10, 20)) == ()


def test_covered_since_is_the_start_of_the_span_that_reaches_the_end():
    assert covered_since([Span(1, 3), Span(5, 9)], 9) == 5
    assert covered_since([Span(1, 3), Span(5, 9)], 12) is None


@given(spans, windows, times)
def test_every_moment_of_the_window_is_covered_or_in_a_gap(some, window, moment):
    if not window.start <= moment <= window.end:
        return
    if not inside(moment, some) and not inside(moment, gaps(some, window)):
        # The hole around the moment is within the tolerance.
        left = [moment - span.end for span in some if span.end < moment]
        assert min([*left, moment - window.start]) <= TOLERANCE


@given(spans, windows)
def test_no_gap_lies_in_a_span_or_outside_the_window(some, window):
    for gap in gaps(some, window):
        assert window.start <= gap.start < gap.end <= window.end
        assert not any(span.start < gap.end and gap.start < span.end for span in some)


@given(spans, windows)
def test_clip_stays_inside_the_window(some, window):
    assert all(window.start <= s.start <= s.end <= window.end for s in clip(some, window))
