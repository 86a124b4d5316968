"""The glue to Snakemake and DVC, plans and prerequisites."""
