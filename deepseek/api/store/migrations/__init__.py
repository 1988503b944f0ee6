"""Migrations of the control database, run by alembic when the database is opened."""
