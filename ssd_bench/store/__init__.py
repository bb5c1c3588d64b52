"""The only room that writes artefacts: addresses, files, locks, rows."""
