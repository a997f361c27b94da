"""Figures of reports and training runs, in one style that reads in grey and for the colour-blind.

Every function takes plain data, returns a ``matplotlib.figure.Figure`` (shown by a notebook, and
by nothing else: no pyplot, no global state) and saves it where a path is given. Colours are those
of Okabe and Ito; a dash, a hatch or a marker tells apart what a colour tells apart.

Needs matplotlib, of the extra ``diagnostics``.
"""

from midas_aug.diagnostics.figures.curves import draw_curves
from midas_aug.diagnostics.figures.distributions import draw_hardness, draw_shares
from midas_aug.diagnostics.figures.report import draw_report

__all__ = ["draw_curves", "draw_hardness", "draw_report", "draw_shares"]
