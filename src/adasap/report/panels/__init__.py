"""The panels of every page, in their order; a further file in this folder is one more of them."""

import importlib
import pkgutil

from adasap.report.panel import Panel
from adasap.report.panels.corruptions import Corruptions
from adasap.report.panels.layers import Layers
from adasap.report.panels.made import Made
from adasap.report.panels.numbers import Numbers
from adasap.report.panels.run import Run
from adasap.report.panels.trade_off import TradeOff

COMMON: tuple[Panel, ...] = (TradeOff(), Numbers(), Corruptions(), Run(), Layers(), Made())
"""Others stand behind the one that they follow (`adasap.report.panel.arranged`)."""


def panels_beside() -> list[Panel]:
    """The panels of this folder's other files."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    known = {Panel, *map(type, COMMON)}
    return [found() for found in dict.fromkeys(classes) if Panel in found.__mro__ and found not in known]
