"""Cold users: protocol, evaluation, results."""
