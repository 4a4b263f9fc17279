"""Conformance for others: language-neutral vectors, and a judge of third-party quantizers.

    from dither import conformance
    conformance.write_vectors("vectors")                  # JSON lines: bits in, format, rounding, bits out
    report = conformance.run(conformance.load("my.py"))   # what an adapter answers, sorted
    assert report.conforming

docs/conformance.md has the schema of the vectors, the five-line adapter, and what counts as a choice.
"""

from dither.conformance.findings import Report, as_json
from dither.conformance.judge import run
from dither.conformance.loading import load
from dither.conformance.vectors import VERSION, write_vectors

__all__ = ["VERSION", "Report", "as_json", "load", "run", "write_vectors"]
