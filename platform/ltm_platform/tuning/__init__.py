"""Sweeps: one job trained many times, with other values of some of its fields.

Parameters (`params`), objectives (`objectives`), the sweep as a value (`spec`), one trial of it
(`trial`), all of them under Ray Tune (`sweep`), and what they show (`results`, `picture`).

No other part of the platform imports Ray Tune or Optuna.
"""
