"""Any file, folder or address becomes a lazy stack."""
