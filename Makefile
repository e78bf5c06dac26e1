# `make demo` and `make test` do everything on a fresh machine; .venv is made on the way.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Two processes, each of one thread: two that both compute with two threads wait for each other.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: demo test check bench clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/nas run --demo

test: $(VENV)/installed
	$(TEST)

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST)
	$(BIN)/python tests/readme_commands.py

bench: $(VENV)/installed
	for name in elastic_forward deploy search_overhead; do $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
