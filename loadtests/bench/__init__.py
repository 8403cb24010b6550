"""`./dev bench`: what the service does on one core, beside what others do there, in one run."""
