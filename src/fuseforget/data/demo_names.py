"""First names of the project's own making, for the demo: invented ones, with invented births.

None is taken from a register. They only have to be told apart: a study on people reads a table of births
(:func:`fuseforget.data.read_names`).
"""

from __future__ import annotations

from fuseforget.data.names import NameTable

__all__ = ["demo_names"]

BIRTHS = (600, 550, 500, 450, 200, 150, 100, 50)  # three names have half of them: common; the last four are rare
NAMES = {
    ("female", "old"): ["Ardelma", "Belvira", "Corinthe", "Dorvetta", "Elmarie", "Fernilda", "Gwenetta", "Hildamae"],
    ("female", "young"): ["Ayvalee", "Brinleigha", "Caylissa", "Emberlie", "Jazzlina", "Kaelissa", "Meadowyn", "Zylia"],
    ("male", "old"): ["Aldwin", "Berthold", "Clarmont", "Dunstan", "Elbridge", "Gilmont", "Harwell", "Orvand"],
    ("male", "young"): ["Ashdon", "Braxley", "Caydric", "Jaxvyn", "Kaylor", "Ryderic", "Tavrion", "Zaydrik"],
}


def demo_names() -> NameTable:
    """The invented names: eight for each gender and age."""
    return NameTable({cell: dict(zip(names, BIRTHS, strict=True)) for cell, names in NAMES.items()})
