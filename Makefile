# Thin entry to the scripts, for those who type `make` first.
.PHONY: help demo test check setup

help:
	@echo 'make demo    build, simulate data, search, train, evaluate (scripts/demo.sh)'
	@echo 'make test    every check that CI runs (scripts/test.sh)'
	@echo 'make check   formatting and lints only (scripts/check.sh)'
	@echo 'make setup   fetch ONNX Runtime (scripts/setup.sh, --gpu for CUDA)'

demo test check setup:
	@scripts/$@.sh
