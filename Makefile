# `make demo`: the whole main job on drawn garments. `make test`: everything CI checks. Both set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: venv demo test lint clean

venv: $(VENV)/ready

$(VENV)/ready: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

demo: venv
	$(BIN)/fsearch generate $(DEMO)/garments --photos 3000
	test -f $(DEMO)/garments.safetensors || \
	  $(BIN)/fsearch train generated --photos $(DEMO)/garments --out $(DEMO)/garments.safetensors
	$(BIN)/fsearch build-index $(DEMO)/garments --model $(DEMO)/garments.safetensors --gallery $(DEMO)/gallery --recipe ivfpq
	$(BIN)/fsearch query $(DEMO)/garments/photos/s00000-0.jpg --set color=red --gallery $(DEMO)/gallery \
	  --topk 8 --save $(DEMO)/red.html
	$(BIN)/fsearch query --like s00416-1 --set colour=grey --where domain=shop --gallery $(DEMO)/gallery \
	  --topk 8 --save $(DEMO)/gray.html
	$(BIN)/fsearch bench --topk 4 --gallery $(DEMO)/gallery --holdout 0.1 --out $(DEMO)/bench.json --save $(DEMO)/bench.html
	@echo "open $(DEMO)/red.html, $(DEMO)/gray.html and $(DEMO)/bench.html"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest

clean:
	rm -rf $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
