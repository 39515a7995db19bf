"""The experiments that decide the papers' claims, one module a paper.

    python -m experiments PAPER [ARM ...] [--budget lite|gpu] [--seconds N] [--device auto] [--seeds 0 1] [--out FILE]
    python -m experiments collect FILE

A module has ``WHAT`` (one line for the records), ``BUDGETS`` (name -> the numbers of a run, which the records keep;
"lite" for two CPU cores, "gpu" for one card), ``SEEDS`` (by budget), ``data(budget)`` (what is trained and tested on,
in words) and ``arms(budget, device)``: name -> run of (seed, folder) that returns its figures, the most important
first. ``verdict`` says what figures allow to be said, ``claims`` says it of the rows of book/claims.yml.
"""
