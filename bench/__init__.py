"""The benchmark harness: ``python -m bench run | compare | report``; see bench/README.md."""
