"""The parts of the benchmark, a module each.

A part has ``TITLE``, ``cases(args)``, what is measured in the parent's words, and ``prepare(job)``,
which a worker calls: it gives a function that takes a ``Stopwatch`` and does the work once.
"""
