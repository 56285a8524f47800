"""Charts of who earns what, and how evenly."""

from headwater_firmware_sim.report.chart import (
    Axis,
    Bar,
    BarChart,
    Chart,
    Colour,
    DataTable,
    make_line,
    show,
)
from headwater_firmware_sim.report.measures import list_class_rewards, list_fairness
from headwater_firmware_sim.report.numbers import format_count, format_index
from headwater_firmware_sim.report.rounds import round_axis
from headwater_firmware_sim.results import RunResult


def chart_rewards(result: RunResult) -> BarChart:
    """The mean reward of a device by its class, attackers apart."""
    groups = list_class_rewards(result.fleet)
    names = [f"{group.device_class}{'' if group.is_honest else ', attackers'}" for group in groups]
    return BarChart(
        key="rewards",
        title="Rewards by device class",
        caption=(
            "Units that a device of the class earned over the run: the mean, and from the lowest "
            "to the highest tenth."
        ),
        bars=tuple(
            Bar(
                name=f"{name} · {group.devices:,}",
                value=group.mean,
                low=group.low,
                high=group.high,
                text=format_count(round(group.mean)),
                colour=Colour.BLUE if group.is_honest else Colour.RED,
            )
            for name, group in zip(names, groups, strict=True)
        ),
        table=DataTable(
            columns=("class", "devices", "mean", "lowest tenth", "highest tenth"),
            rows=tuple(
                (
                    name,
                    format_count(group.devices),
                    format_count(round(group.mean)),
                    format_count(group.low),
                    format_count(group.high),
                )
                for name, group in zip(names, groups, strict=True)
            ),
            source="devices.csv",
        ),
    )


def chart_fairness(result: RunResult) -> Chart:
    """Gini and Jain of what honest devices were paid so far, after each round."""
    points = list_fairness(result)
    caption = (
        "Over what each honest device was paid so far. Gini: 0 is even. Jain: 1 is even. Devices "
        "with more or better examples earn more, so even is no aim in itself."
    )
    if not points:
        caption += " By round only with output.device_rounds = true."
    return Chart(
        key="fairness",
        title="How evenly rewards fall",
        caption=caption,
        x=round_axis([point.round for point in points]),
        y=Axis(label="index", top=1.0, format=format_index),
        lines=(
            make_line("Gini", Colour.PURPLE, [(point.round, point.gini) for point in points]),
            make_line(
                "Jain", Colour.CYAN, [(point.round, point.jain) for point in points], is_dashed=True
            ),
        ),
        table=DataTable(
            columns=("round", "Gini", "Jain"),
            rows=tuple(
                (str(point.round), show(point.gini, format_index), show(point.jain, format_index))
                for point in points
            ),
            source="device_rounds.csv",
        ),
    )
