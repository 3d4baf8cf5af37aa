# The README's two commands are `make demo` and `make test`; each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
# constraints-oldest.txt holds the oldest versions that pyproject.toml allows: see .ci/oldest.
CONSTRAINTS ?= constraints.txt

.PHONY: setup demo test quick costs check format bench docs lock clean

# In another worktree too, what runs is this tree's code.
export PYTHONPATH := $(CURDIR)/src

# A linked .venv belongs to another checkout, which its installation points to: it is left as it is.
setup: $(if $(shell test -L $(VENV) && echo linked),,$(STAMP))

$(STAMP): $(CONSTRAINTS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "heatproof needs Python 3.11 or newer, got " + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $(STAMP)

demo: setup
	$(BIN)/python -m heatproof.demo demo

# A thread a worker: more of them wait for each other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# While developing: one case of every test, none of the costly ones; under a minute on two cores.
# To compile all tests anew takes half of that: their bytecode is kept, whatever the shell says.
quick: setup
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --quick -q -n $(WORKERS) --dist worksteal

# Which tests `make quick` leaves out (tests/costly.txt), from CPU time, so on a busy machine too.
costs: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --costs -q

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# Ratios and tables with this machine's figures, into benchmarks/results/.
bench: setup
	$(BIN)/python benchmarks/explain_cost.py
	$(BIN)/python benchmarks/certificate_cost.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/metrics_cost.py
	$(BIN)/python benchmarks/families.py --tiny
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/families.py

# The pages that are tables, from the catalogue and from benchmarks/results/.
docs: setup
	$(BIN)/python docs/generate.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The newest versions and the oldest; names and versions only, no address of any index.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --no-emit-index-url --no-header --no-annotate --python-version 3.11 --extra dev pyproject.toml
lock:
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) --output-file constraints.txt
	$(LOCK) --resolution lowest-direct --output-file constraints-oldest.txt

clean:
	rm -rf $(VENV) demo out site
