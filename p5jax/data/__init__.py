"""Raw reviews and interaction logs to one leak-free dataset folder."""
