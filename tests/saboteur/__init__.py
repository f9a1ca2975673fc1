"""The saboteur: breaks the book and its package in one place at a time; each time something must go red."""
