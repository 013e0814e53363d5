"""PAP-REC: trigger tokens found by gradient against a frozen model (arXiv 2402.00284)."""
