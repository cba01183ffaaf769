"""Documents, contacts and the audit of what was asked.

Revision 0001, the first.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

TYPES = "'CONTACT', 'FORM', 'PROTOCOL', 'CRITERIA', 'DOSAGE', 'SUMMARY'"


def upgrade() -> None:
    """Make three tables, and the function that their search columns need."""
    # array_to_string is STABLE, as it may be given types whose text depends on settings; of text[] it is immutable.
    op.execute(
        "CREATE FUNCTION keywords_text(text[]) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE"
        " RETURN array_to_string($1, ' ')"
    )
    op.create_table(
        "document",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("keywords", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("sample", sa.Boolean(), server_default=sa.false(), nullable=False),
        _search("title", "body"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_document")),
        sa.UniqueConstraint("slug", name=op.f("uq_document_slug")),
        sa.CheckConstraint(f"type IN ({TYPES})", name=op.f("ck_document_type")),
    )
    op.create_index(op.f("ix_document_search"), "document", ["search"], postgresql_using="gin")
    op.create_table(
        "contact",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False),
        sa.Column("pager", sa.Text(), nullable=False),
        sa.Column("hours", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("keywords", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("sample", sa.Boolean(), server_default=sa.false(), nullable=False),
        _search("service", "role"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contact")),
        sa.UniqueConstraint("service", "role", name=op.f("uq_contact_service_role")),
    )
    op.create_index(op.f("ix_contact_search"), "contact", ["search"], postgresql_using="gin")
    op.create_table(
        "query_audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("found", sa.Boolean(), nullable=False),
        sa.Column("document_id", sa.Integer(), nullable=True),
        sa.Column("contact_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_query_audit")),
        sa.ForeignKeyConstraint(
            ["document_id"], ["document.id"], ondelete="SET NULL", name=op.f("fk_query_audit_document_id_document")
        ),
        sa.ForeignKeyConstraint(
            ["contact_id"], ["contact.id"], ondelete="SET NULL", name=op.f("fk_query_audit_contact_id_contact")
        ),
        sa.CheckConstraint(f"type IN ({TYPES})", name=op.f("ck_query_audit_type")),
    )


def downgrade() -> None:
    """Drop all of it, with everything that was asked."""
    for table in ("query_audit", "contact", "document"):
        op.drop_table(table)
    op.execute("DROP FUNCTION keywords_text(text[])")


def _search(heaviest: str, lightest: str) -> sa.Column[str]:
    vector = (
        f"setweight(to_tsvector('english', {heaviest}), 'A')"
        " || setweight(to_tsvector('english', keywords_text(keywords)), 'B')"
        f" || setweight(to_tsvector('english', {lightest}), 'C')"
    )
    return sa.Column("search", postgresql.TSVECTOR(), sa.Computed(vector, persisted=True), nullable=False)
