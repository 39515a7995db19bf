# make book    run the notebooks that have not run yet and build the book
# make book BUDGET=gpu    the same, with the chapters' trainings at the size of a graphics card
# make test    the same as make book, then every test
# make soak    for some hours: wrong calls by the thousand, machines that fail, twenty thousand images; it is recorded in
#              results/, and goes on where it was stopped
# make benchmark    every speed row of the book in one run, ratios and growth, recorded in results/
# make pdf     the built book as one file for paper, _build/book.pdf, printed by Chromium
# make lab     JupyterLab on the notebooks; lab.ipynb among them takes your own photo
# make claims PAPER=acenet    train what the claims of a paper compare, and record it in results/
# make claims PAPER=acenet OPTIONS="--budget gpu --seconds 500"    the same on a card, as far as the time goes
# make reproduce PAPER=acenet DATA=folder    the same on photos that you have

PYTHON ?= python3
BIN := .venv/bin
BUDGET ?= lite
export BUDGET

.PHONY: book pdf test soak benchmark lab claims reproduce clean
book: .venv/ready
	$(BIN)/python -m book.build

pdf: book
	$(BIN)/python -m book.pdf

# A book that cannot be built is reported by its tests, after all the others have had their say.
test: .venv/ready
	-$(BIN)/python -m book.build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

soak: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.abuse.soak

benchmark: .venv/ready
	$(BIN)/python -m benchmarks

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

claims: .venv/ready
	$(BIN)/python -m experiments $(PAPER) $(ARMS) $(OPTIONS)

reproduce: .venv/ready
	DATA="$(DATA)" $(BIN)/python -m experiments $(PAPER)_photos $(ARMS) $(OPTIONS)

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	$(BIN)/python -m pip check
	touch $@

clean:
	rm -rf _build
