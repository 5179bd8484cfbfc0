"""What makes inputs or changes them, one file a way."""
