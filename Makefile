# `make demo` and `make test` do the set-up: each creates the .venv that it needs.
# PYTHON is the Python that creates it; PYTEST_ARGS, DEMO_ARGS, CHAOS_ARGS, SEED_ARGS, OBSERVE_ARGS, HOSTILE_ARGS and MUTATE_ARGS are passed on.

.DEFAULT_GOAL := help
.PHONY: help demo demo-kafka demo-mdm e2e e2e-mdm e2e-ssh test-installers pilot fmt lint type test test-unit test-security test-kafka test-faults test-properties bench bench-core bench-ratio bench-embedded bench-query bench-document bench-outage bench-hostile replay-day mutate fuzz schemas lock clean
.PHONY: chaos chaos-short observe faults fault-seeds coverage chart tools tools-deploy kafka-up kafka-down

BIN := .venv/bin
# Real servers of `make test`. Outside CI, tests without their server are skipped.
MDM_SERVERS := nanomdm kmfddm scepserver scepclient
TEST_SERVERS := kafka $(MDM_SERVERS) helm kubeconform kubernetes-schemas
S3_SERVERS := versitygw toxiproxy
# Targets of their own run these tests, so that `make test` takes less than ten minutes.
TESTS_WITH_A_TARGET := tests/faults tests/integration tests/installers tests/ssh tests/mdm/test_end_to_end.py \
	tests/mdm/test_killed_executors.py tests/e2e/test_pilot.py tests/e2e/test_summer_2026.py
COVERED_TESTS := tests/unit tests/property tests/contracts tests/chaos tests/e2e
CLUSTER ?= 1
KAFKA_PORT ?= 19092
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url
export PYTHON

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

demo: ## run a simulated fleet, from an advisory to a report
	@tools/environment server
	@$(BIN)/drydock demo $(DEMO_ARGS)

demo-kafka: ## run the demo in one process and on Kafka, and compare (DEMO_ARGS="--seed 2 --devices 100")
	@tools/environment dev
	@tools/servers kafka
	@$(BIN)/python -W ignore -m tests.fleet_demo $(DEMO_ARGS)

demo-mdm: ## patch ten Macs that speak Apple's MDM protocol, through real MDM servers
	@tools/environment dev
	@tools/servers $(MDM_SERVERS)
	@$(BIN)/python -W ignore -m tests.mdm $(DEMO_ARGS)

fmt: ## format the code, with the fixes of ruff
	@tools/environment dev
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

lint: ## check style and format
	@tools/environment dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

type: ## check types
	@tools/environment dev
	@$(BIN)/mypy --no-error-summary

test: lint type ## check style and types, and run the tests that have no target of their own
	@for server in $(TEST_SERVERS); do tools/servers $$server || [ -z "$$CI" ] || exit 1; done
	@$(BIN)/python -m pytest -n 2 $(addprefix --ignore=,$(TESTS_WITH_A_TARGET)) $(PYTEST_ARGS)

test-unit: ## run the unit tests that are not slow (under a minute)
	@tools/environment dev
	@$(BIN)/python -m pytest tests/unit -n 2 -m "not slow" $(PYTEST_ARGS)

test-security: ## attack running programs as a sender, a feed or a writer of topics does (tests/security)
	@tools/environment dev
	@tools/servers kafka
	@$(BIN)/python -m pytest tests/security tests/integration/test_attacks.py -n 2 $(PYTEST_ARGS)

test-installers: ## store, cache and serve installers with a real S3 server, and cut its connections
	@tools/environment dev
	@tools/servers $(S3_SERVERS)
	@$(BIN)/python -m pytest tests/installers -n 2 $(PYTEST_ARGS)

pilot: ## let 3,000 Macs pass two weeks of dry run, twice: then one site goes live; with the releases of summer 2026
	@tools/environment dev
	@$(BIN)/python -m pytest tests/e2e/test_pilot.py tests/e2e/test_summer_2026.py -n 2 $(PYTEST_ARGS)

e2e: e2e-mdm e2e-ssh test-installers ## let Macs be updated, reinstalled, imaged and erased over MDM and SSH, with installers from S3

e2e-mdm: ## let an advisory reach 50 Macs through real MDM servers, and kill executors there
	@tools/environment dev
	@tools/servers kafka $(MDM_SERVERS)
	@$(BIN)/python -m pytest tests/mdm/test_end_to_end.py tests/mdm/test_killed_executors.py -n 2 $(PYTEST_ARGS)

e2e-ssh: ## update Macs through a real OpenSSH, with kills and cut connections
	@tools/environment dev
	@$(BIN)/python -m pytest tests/ssh -n 2 $(PYTEST_ARGS)

test-kafka: ## run the programs of the fleet form on a real broker (tests/integration)
	@tools/environment dev
	@tools/servers kafka cloudevents-java $(MDM_SERVERS)
	@$(BIN)/python -m pytest tests/integration -n 2 $(PYTEST_ARGS)

test-faults: ## damage disks, files and topics, in the short set of tests/faults
	@tools/environment dev
	@tools/servers kafka
	@$(BIN)/python -m pytest tests/faults -n 2 $(PYTEST_ARGS)

test-properties: ## run the property tests with four times the examples of `make test`
	@tools/environment dev
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest tests/unit tests/property tests/security -m hypothesis -n 2 --timeout=600 $(PYTEST_ARGS)

faults: ## damage disks, files and topics, in every way of tests/faults
	@tools/environment dev
	@tools/servers kafka toxiproxy
	@DRYDOCK_FAULTS=all $(BIN)/python -m pytest tests/faults -n 2 $(PYTEST_ARGS)

fault-seeds: ## mix kills with random faults by seed, then check (SEED_ARGS="--seeds 1-200")
	@tools/environment dev
	@$(BIN)/python -W ignore -m tests.faults.random $(SEED_ARGS)

coverage: ## list the modules of which fast tests reach less than 80 % of the lines
	@tools/environment dev
	@rm -rf .coverage && mkdir .coverage
	@$(BIN)/coverage run -m pytest $(COVERED_TESTS) -n 2 -m "not slow" -q $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage json --quiet -o .coverage/report.json
	@$(BIN)/python tools/coverage_table.py .coverage/report.json

bench: ## measure the fleet form on a real broker (BENCH_ARGS="--quick", "--only latency")
	@tools/environment dev
	@tools/servers kafka
	@$(BIN)/python -W ignore -m tests.bench.kafka $(BENCH_ARGS)

bench-core: ## measure ingest, fold and decide without a broker
	@tools/environment dev
	@$(BIN)/python -m tests.bench.core

bench-ratio: ## fail if reports are reconciled slower than recorded, compared with decoding
	@tools/environment dev
	@$(BIN)/python -m tests.bench.ratio $(RATIO_ARGS)

bench-embedded: ## measure the embedded service over HTTP
	@tools/environment dev
	@$(BIN)/python -m tests.bench.embedded

bench-query: ## measure the reading commands with 100,000 Macs and 5 million decisions (3 GB in /tmp)
	@tools/environment dev
	@$(BIN)/python -m tests.bench.query $(QUERY_ARGS)

bench-document: ## measure a first document of SOFA with 3,000 known Macs (FEED=FILE)
	@tools/environment dev
	@$(BIN)/python -m tests.bench.first_document $(FEED)

bench-hostile: ## send honest webhooks beside hostile senders (HOSTILE_ARGS="--seconds 60 --rate 200")
	@tools/environment dev
	@$(BIN)/python -W ignore -m tests.bench.hostile $(HOSTILE_ARGS)

bench-outage: ## stop Kafka under webhooks and count them (OUTAGE_ARGS="--seconds 60 --rate 200")
	@tools/environment dev
	@tools/servers kafka
	@$(BIN)/python -m tests.bench.outage $(OUTAGE_ARGS)

replay-day: ## replay a day of 1,000 simulated Macs from Kafka, and try another deadline
	@tools/environment dev
	@tools/servers kafka
	@$(BIN)/python -W ignore -m tests.kafka.recorded_day $(REPLAY_ARGS)

chaos: ## kill and tamper with a fleet on Kafka, then check it (20 minutes; CHAOS_ARGS)
	@tools/environment dev
	@tools/servers kafka
	@$(BIN)/python -W ignore -m tests.chaos $(CHAOS_ARGS)

observe: ## let an incident fire its alerts and end them, in a real Prometheus and Alertmanager (OBSERVE_ARGS="--short")
	@tools/environment dev
	@$(BIN)/python -W ignore -m tests.observe $(OBSERVE_ARGS)

chaos-short: ## run chaos on a small fleet (3 minutes)
	@tools/environment dev
	@tools/servers kafka
	@$(BIN)/python -W ignore -m tests.chaos --short $(CHAOS_ARGS)

mutate: ## change the core at random places and count the failing tests (MUTATE_ARGS="--seed 7")
	@tools/environment dev
	@$(BIN)/python -m tests.mutation $(MUTATE_ARGS)

fuzz: ## fuzz the translators with atheris (Linux)
	@tools/environment dev
	@tools/environment fuzz
	@$(BIN)/python -m tests.fuzz

chart: ## lint and render the Helm chart, and check the objects
	@tools/environment dev
	@tools/servers helm kubeconform kubernetes-schemas
	@$(BIN)/python -m pytest tests/deploy $(PYTEST_ARGS)

tools: ## fetch and build the servers that tests use (java, mvn, go)
	@tools/servers kafka cloudevents-java $(MDM_SERVERS) $(S3_SERVERS)

tools-deploy: ## fetch and build the tools that check the Helm chart (go)
	@tools/servers helm kubeconform kubernetes-schemas

kafka-up: ## start a Kafka broker on loopback (CLUSTER=3, KAFKA_PORT=19092)
	@tools/environment dev
	@tools/servers kafka
	@$(BIN)/python -m tests.kafka.kafka_up up --brokers $(CLUSTER) --port $(KAFKA_PORT)

kafka-down: ## stop the brokers of kafka-up; .kafka keeps the data
	@tools/environment dev
	@$(BIN)/python -m tests.kafka.kafka_up down

schemas: ## write schemas/published again
	@tools/environment server
	@$(BIN)/drydock schemas

lock: ## resolve the dependencies again (needs uv; UPGRADE=1 takes newer versions)
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra server --extra s3 --group dev pyproject.toml -o requirements/dev.lock
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra server --extra s3 --group build -c requirements/dev.lock pyproject.toml -o requirements/server.lock
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra s3 -c requirements/dev.lock deploy/agent/pyproject.toml -o requirements/agent.lock
	$(LOCK) $(if $(UPGRADE),--upgrade) --group pyproject.toml:fuzz -o requirements/fuzz.lock
	$(LOCK) $(if $(UPGRADE),--upgrade) --no-deps --group pyproject.toml:deploy -o requirements/deploy.lock

clean: ## remove the files of the other targets, but .tools and .kafka
	rm -rf .venv .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build demo-data demo-mdm-data deploy/agent/dist
	find agents pipeline runtime schemas tests -type d -name __pycache__ -prune -exec rm -rf {} +
