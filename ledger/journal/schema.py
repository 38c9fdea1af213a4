"""What this program expects of the database it is given."""

SCHEMA_REVISION = "0002"
SERVING_ROLE = "caduceus_serving"
MONTHS_AHEAD = 3
