# `make serve` and `make test` are all that a fresh machine needs; `make help` lists the rest.
VENV := .venv
PYTHON := $(VENV)/bin/python
SOURCES := serve deployments adapters tests bench
LOCK := cluster/requirements

.DEFAULT_GOAL := help
.PHONY: help install demo serve test lint format type bench lock clean

help: ## what can be made
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: ## the virtual environment, anew only when a lock file changed
	@cluster/install.sh

demo: install ## the demo model, its adapters and its embedding model, into models/
	@$(PYTHON) -m serve.demo

serve: demo ## install, make the demo model, start Ray and Switchboard
	@$(PYTHON) -m serve.launch serve_config.yaml

# The quick tests first: a fault in them is known before any engine is started.
test: demo ## every test
	$(PYTHON) -m pytest -m "not engine"
	$(PYTHON) -m pytest -m engine

lint: install ## style, formatting, and which package may import which
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(VENV)/bin/lint-imports

format: install ## put the sources into shape
	$(PYTHON) -m ruff format
	$(PYTHON) -m ruff check --fix

type: install ## strict types
	$(PYTHON) -m mypy $(SOURCES)

bench: demo ## Switchboard beside a bare vLLM server, then beside other gateways
	$(PYTHON) -m bench.local_model
	$(PYTHON) -m bench.hosted

# uv must be on the PATH. For the CPU lock it takes torch from PyTorch's own index, or from the folder that
# UV_FIND_LINKS names; the GPU lock must not see that folder.
COMPILE := pip compile pyproject.toml --group dev --override $(LOCK)/overrides.txt --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28
FIND_TORCH := $(if $(UV_FIND_LINKS),--find-links $(UV_FIND_LINKS),--torch-backend cpu)

lock: ## pin every dependency anew, after a change to pyproject.toml
	uv $(COMPILE) --extra cpu --constraint $(LOCK)/torch-cpu.txt --no-emit-package torch $(FIND_TORCH) \
		--output-file $(LOCK)/cpu.txt
	env -u UV_FIND_LINKS uv $(COMPILE) --extra gpu --output-file $(LOCK)/gpu.txt

clean: ## remove what was made, except the virtual environment
	rm -rf models .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis bench/out
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
