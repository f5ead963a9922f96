"""Create, lock, resume and load the folder of a run, and read and write the files in it."""
