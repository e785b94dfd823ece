# Each target sets up what it needs. Nothing has to be installed before but Python >= 3.11 and make.
.DELETE_ON_ERROR:
.PHONY: demo dev test lint bench lock clean help
PY := .venv/bin/python
TESTS ?= tests

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

demo: .venv/.done ## run one job to Google, Meta and S3 against private servers and sandboxes
	@$(PY) -m sandbox.demo

dev: .venv/.done ## the same with Flower, until Ctrl-C; [CONNECTIONS=connections.toml] [JOB=job.toml]
	@$(PY) -m sandbox.dev $(if $(CONNECTIONS),--connections $(CONNECTIONS)) $(if $(JOB),--job $(JOB))

test: .venv/.done .venv/.servers ## the whole test suite
	$(PY) -m pytest -n 2 --dist loadfile $(TESTS)

lint: .venv/.done ## ruff, mypy, import boundaries
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/.done .venv/.servers ## the figures that the docs quote
	$(PY) -m bench

lock: .venv/.done ## write requirements/*.txt anew
	PATH="$(CURDIR)/.venv/bin:$$PATH" requirements/lock

clean: ## remove what the other targets made
	rm -rf .venv .run dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.done: requirements/dev.txt pyproject.toml deploy/machine.sh
	@deploy/machine.sh venv
	@test -x $(PY) || python3 -m venv .venv
	@echo "penstock: installing Python packages"
	@grep -A 40 '^uv==' requirements/dev.txt | awk 'NR > 1 && !/^ / {exit} {print}' > .venv/uv.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
	@.venv/bin/uv pip install --quiet --python $(PY) --require-hashes --no-deps -r requirements/dev.txt
	@.venv/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.servers: .venv/.done deploy/machine.sh
	@deploy/machine.sh servers
	@touch $@
