# Six verbs. Each makes the environment it needs in .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-real slow lint clean

PROMPT ?= Write a story about a dog named Biscuit

demo: .venv/run
	@echo '> $(PROMPT)'
	@$(BIN)/python demo.py "$(PROMPT)" --seed 2
	@echo
	@echo 'The same again with one layer in memory at a time, each read anew for every token:'
	@echo '> $(PROMPT)'
	@$(BIN)/python demo.py "$(PROMPT)" --seed 2 --poolsize min

test: .venv/dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow and not real"

test-real: .venv/dev
	$(BIN)/python -m pytest -m real

slow: .venv/dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .mypy_cache

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: .venv/run tools/requirements.txt requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements-dev.txt
	@touch $@
