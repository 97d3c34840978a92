"""From recorded runs to tables and pictures.

Tables are values, made by pure functions: `selection` (which runs, in which order), `comparison`
(runs side by side), `paper_table` (the published table with our runs beside it) and `pareto` (one
network at many ratios). `figures` draws them.
"""
