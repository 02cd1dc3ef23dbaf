"""The model store: a folder of plain files, one folder a model and version. Knows no torch and no network."""
