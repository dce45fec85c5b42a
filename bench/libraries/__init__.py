"""Models of other libraries, with torch.nn's layers and with fusedrnn's.

`python -m bench.libraries` times them; `tests_libraries` compares their results.

Each library is a module here with a list of `Subject`s.
"""

# The module of each package, named as on PyPI.
MODULES = {
    "sb3-contrib": "sb3_models",
    "stanza": "stanza_models",
    "speechbrain": "speechbrain_models",
    "gluonts": "gluonts_models",
    "torchrl": "torchrl_models",
    "flair": "flair_models",
    "neuralforecast": "neuralforecast_models",
    "darts": "darts_models",
    "pytorch-forecasting": "pytorch_forecasting_models",
    "opacus": "opacus_models",
    "lightning": "lightning_models",
    "transformers": "transformers_models",
    "resemblyzer": "resemblyzer_models",
}
