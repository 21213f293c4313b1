"""The cases of the benchmark: one file each, its name is the case's name.

A case has:

    ORDER        its place in the output
    SUMMARY      one line: what one run of a variant does
    TOKENS       tokens a run reads or writes, where speed is tokens per second; else 0
    MAIN         beginnings of the names of its ratios that must not get worse
    variants     (setting) -> name -> maker of a `Variant`; the others are compared with
                 the first one
    results      (measured, setting) -> dotted name -> `Spread`; a name that ends in
                 _s or _tps is a measurement, every other one is a ratio

A ratio is better when it is lower, and where TOKENS is set, when it is higher.
"""
