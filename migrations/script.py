"""Run a migration that is written in SQL, as it stands."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

VERSIONS = Path(__file__).parent / "versions"


def run_script(name: str) -> None:
    """Execute the file `name` of `migrations/versions/`, many statements, in the transaction that Alembic has open."""
    connection = op.get_bind()
    connection.exec_driver_sql("SELECT 1")  # SQLAlchemy begins its transaction with the first statement of its own
    driver = connection.connection.driver_connection
    assert driver is not None
    await_only(driver.execute((VERSIONS / name).read_text(encoding="utf-8")))
