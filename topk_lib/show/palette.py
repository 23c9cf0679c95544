"""The course's colours: three have a meaning, the others only tell curves apart.

``static/show.css`` holds the same three for pages, with their counterparts for dark ones; a test
compares the two files.
"""

from __future__ import annotations

__all__ = ["CURVES", "DROPPED", "KEPT", "MARKERS", "SOFT"]

# Told apart with any kind of colour vision, and text in them reads on white (contrast above 4.5).
KEPT = "#3a62e6"
"""Blue: what a hard choice keeps."""
SOFT = "#b45309"
"""Amber: a soft weight."""
DROPPED = "#686f7c"
"""Grey: what is dropped."""

# Okabe and Ito (2008), for what has none of the three meanings.
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vP"
