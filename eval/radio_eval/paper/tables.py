"""The tables by name."""

from radio_eval.paper.definitions import PaperTable
from radio_eval.paper.table3 import TABLE3
from radio_eval.paper.table4 import TABLE4
from radio_eval.paper.table5 import TABLE5
from radio_eval.paper.table6 import TABLE6

TABLES: dict[str, PaperTable] = {table.name: table for table in (TABLE3, TABLE4, TABLE5, TABLE6)}
