"""How fast the SDK is, as ratios to what one would use in its place: ``python -m tests.benchmarks``.

Each contender is a process of its own, and only its own CPU seconds count, so that neither the server that
answers it nor a busy machine does. Contenders take turns (ABAB...), each turn of ours is divided by the turn
of theirs beside it, and the median of these ratios is what the table shows.

::

    __main__    the command line and the table
    measure     contenders, turns and ratios
    canned      the server that answers the calls, and its answers
    worker      what runs in a contender that makes calls; ``peers/`` has what it runs
    generated   clients generated from ``openapi.yaml``, in an environment of their own
    *_rows      what is measured, each against whom, and the goal
"""
