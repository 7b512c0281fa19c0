"""The host: launching, links, what works here and what it is. Knows no problem and no trace."""
