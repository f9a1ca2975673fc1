"""The saboteur: breaks the book and its package in one place at a time, and demands that something goes red."""
