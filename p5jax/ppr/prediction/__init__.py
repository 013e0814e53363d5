"""Profile attributes predicted from the others and from behaviour."""
