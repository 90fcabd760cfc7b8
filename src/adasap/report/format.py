"""Numbers as people read them: scores in a metric's unit and direction, sizes, times."""

from __future__ import annotations

from adasap.evaluation.statistics import Interval
from adasap.metric import Metric

MINUS = "\N{MINUS SIGN}"


def duration(seconds: float) -> str:
    """A time as it is said: in hours and minutes, minutes, or seconds.

    Example:
        >>> duration(7.2), duration(95), duration(5400), duration(3601)
        ('7 s', '2 min', '1 h 30 min', '1 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return " ".join([f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0))


def axis_title(metric: Metric) -> str:
    """The metric with its unit.

    Example:
        >>> axis_title(Metric("iou", "IoU")), axis_title(Metric("mae", "count error", "dots", False))
        ('IoU (%)', 'count error (dots)')
    """
    return f"{metric.label}{unit_bracket(metric)}"


def unit_bracket(metric: Metric) -> str:
    """The unit behind a heading: ` (%)`, or nothing for a plain number."""
    return f" ({metric.unit})" if metric.unit else ""


def in_unit(value: float, metric: Metric) -> float:
    """A score as it is drawn: fractions times 100."""
    return 100 * value if metric.unit == "%" else value


def score_number(value: float, metric: Metric, digits: int = 1) -> str:
    """A score without its unit; `digits` are those of per cent, other units have three that count.

    Example:
        >>> score_number(0.912, Metric("iou", "IoU")), score_number(0.912, Metric("mae", "error", "dots"))
        ('91.2', '0.912')
    """
    return f"{100 * value:.{digits}f}" if metric.unit == "%" else three_digits(value)


def score_text(value: float, metric: Metric) -> str:
    """A score with its unit.

    Example:
        >>> score_text(0.912, Metric("iou", "IoU")), score_text(2.5, Metric("mae", "error", "dots", False))
        ('91.2 %', '2.50 dots')
    """
    return f"{score_number(value, metric)} {metric.unit}".rstrip()


def score_interval(found: Interval, metric: Metric, digits: int = 1) -> str:
    """A score with its interval, without its unit.

    Example:
        >>> score_interval(Interval(0.912, 0.9, 0.92), Metric("iou", "IoU"))
        '91.2 (90.0 to 92.0)'
    """
    value, low, high = (score_number(end, metric, digits) for end in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def difference_number(difference: Interval, metric: Metric, digits: int = 1) -> str:
    """A difference of scores with its interval, each with a sign.

    Example:
        >>> difference_number(Interval(0.012, 0.001, 0.02), Metric("iou", "IoU"))
        '+1.2 (+0.1 to +2.0)'
    """
    ends = (difference.value, difference.low, difference.high)
    value, low, high = (_signed(score_number(end, metric, digits)) for end in ends)
    return f"{value} ({low} to {high})"


def difference_unit(metric: Metric) -> str:
    """What differences are counted in.

    Example:
        >>> difference_unit(Metric("iou", "IoU")), difference_unit(Metric("mae", "error", "dots", False))
        ('points', 'dots')
    """
    return "points" if metric.unit == "%" else metric.unit


def difference_text(difference: Interval, metric: Metric) -> str:
    """A difference of scores with its interval and unit; says which way is better where lower is."""
    better = "" if metric.higher_is_better else f", {better_or_worse(difference.value)}"
    return f"{difference_number(difference, metric)} {difference_unit(metric)}".rstrip() + better


def better_or_worse(difference: float) -> str:
    """A word for the difference of a metric that is better when it is lower."""
    return "better" if difference < 0 else "worse" if difference > 0 else "as before"


def shows(difference: Interval) -> bool:
    """Whether a difference is one: its interval does not hold 0.

    Example:
        >>> shows(Interval(0.012, -0.001, 0.02)), shows(Interval(0.012, 0.001, 0.02)), shows(Interval(0.0, 0.0, 0.0))
        (False, True, False)
    """
    return not difference.low <= 0 <= difference.high


def smaller_text(before: float, after: float) -> str:
    """How much smaller something became.

    Example:
        >>> smaller_text(41_500_000, 13_000_000), smaller_text(100, 100), smaller_text(100, 125)
        ('3.19x smaller', 'as large', '1.25x larger')
    """
    if before == after or not (before and after):
        return "as large" if before == after else ""
    ratio = max(before, after) / min(before, after)
    return f"{three_digits(ratio)}x {'smaller' if after < before else 'larger'}"


def gain_of(difference: Interval, metric: Metric) -> Interval:
    """A difference of scores turned so that more is better.

    Example:
        >>> gain_of(Interval(-2.0, -3.0, -1.0), Metric("mae", "error", "dots", higher_is_better=False))
        Interval(value=2.0, low=1.0, high=3.0)
    """
    if metric.higher_is_better:
        return difference
    return Interval(-difference.value, -difference.high, -difference.low)


def value_text(value: float, unit: str) -> str:
    """A size or a time.

    Example:
        >>> value_text(1.234, "ms"), value_text(41_500_000, "")
        ('1.23 ms', '41.5 M')
    """
    if unit:
        return f"{three_digits(value)} {unit}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{three_digits(value / size)} {letter}"
    return f"{value:.0f}"


def three_digits(value: float) -> str:
    """Three digits that count, from a thousandth up.

    Example:
        >>> three_digits(123.4), three_digits(12.34), three_digits(-0.0123)
        ('123', '12.3', '-0.012')
    """
    size = abs(value)
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def _signed(number: str) -> str:
    """With a sign, the true minus for negative ones."""
    return number.replace("-", MINUS) if number.startswith("-") else f"+{number}"
