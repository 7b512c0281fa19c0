"""The claims ledger, behind `outpace claims`: what papers say, tested here, with thresholds fixed beforehand."""
