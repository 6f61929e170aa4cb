"""What the records of a sweep say: tables, files and the MLflow runs. Changing a table never trains anything."""
