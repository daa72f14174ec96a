"""Landing files to raw tables: contract, loader, importers."""
