"""fuzz_python: coverage-guided fuzzing of the Python surface: `fuzz_python.py corpus... [-runs=N]` with atheris.

One input is one call of a public function, or a few of a layer. `rules.py` has what must hold of all of them. With
TRACE=1 in the environment the calls are printed, to see what an input that was found does.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for cases.py and holds.py

CORPUS = Path(__file__).parent / "corpus_python"


def _imported(atheris=None):
    """What one input runs, with Python's own coverage where atheris is given."""
    global CALLS, Source, Rules, cbn
    if atheris is None:
        import cbn
    else:
        with atheris.instrument_imports(include=["cbn"]):
            import cbn
    from calls import CALLS
    from containers import containers
    from drawing import Source
    from layers import layers
    from rules import Rules

    CALLS = [*CALLS, layers, layers, layers, containers]


def _show(name, args, kwargs):
    print(name, *map(repr, args), kwargs, flush=True)


def one_input(data):
    """Run what the bytes say; raises `rules.Broken`, or an AssertionError of a bound, where a rule is broken."""
    source = Source(data)
    rules = Rules(source, _show if os.environ.get("TRACE") else None)
    operation, isa = source.pick(CALLS), source.pick(cbn.available_isas()[::-1])
    with cbn.use_isa(isa):
        operation(source, rules)


def corpus():
    return sorted(CORPUS.iterdir())


if __name__ == "__main__":
    import atheris

    _imported(atheris)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
else:
    _imported()
