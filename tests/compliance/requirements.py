"""What PostgreSQL can do, so that the suite tests it: most requirements are closed until a dialect opens them."""

from typing import Any

from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements

_MET = """
    array_type autocommit check_constraint_reflection column_collation_reflection comment_reflection
    comment_reflection_full_unicode computed_columns computed_columns_reflect_persisted computed_columns_stored
    computed_columns_virtual constraint_comment_reflection create_or_replace_view create_table_as create_temp_table_as
    cross_schema_fk_reflection ctes ctes_with_update_delete ctes_with_values date_historic datetime_historic
    datetime_interval datetime_literals datetime_timezone datetime_timezone_historic default_schema_name_switch
    delete_from expression_server_defaults fetch_expression fetch_first fetch_no_order_by fetch_offset_with_options
    fetch_ties fk_constraint_option_reflection_ondelete_noaction fk_constraint_option_reflection_ondelete_restrict
    fk_constraint_option_reflection_onupdate_restrict float_or_double_precision_behaves_generically
    foreign_key_constraint_name_reflection foreign_key_constraint_option_reflection_ondelete
    foreign_key_constraint_option_reflection_onupdate has_temp_table identity_columns identity_columns_standard
    index_ddl_if_exists index_reflects_included_columns indexes_check_column_order indexes_with_expressions
    infinity_floats inline_check_constraint_reflection isolation_level json_type legacy_unconditional_json_extract
    materialized_views percent_schema_names precision_numerics_many_significant_digits
    precision_numerics_retains_significant_digits reflect_indexes_with_expressions reflect_table_options
    reflect_tables_no_columns reflects_pk_names regexp_match regexp_replace repeated_column_foreign_keys savepoints
    schema_create_delete server_defaults skip_autocommit_rollback supports_bitwise_and supports_bitwise_not
    supports_bitwise_or supports_bitwise_shift supports_bitwise_xor supports_distinct_on table_ddl_if_exists
    table_value_constructor temp_table_comment_reflection temp_table_names temporary_views time_timezone tuple_in
    two_phase_transactions unicode_ddl unique_constraints_reflect_as_index update_from uuid_data_type views
    window_functions window_range window_range_non_numeric window_range_numeric
""".split()  # noqa: SIM905 - as a list, a page


class _Measured(SuiteRequirements):
    """The one requirement that is data, and differs by driver."""

    def get_isolation_levels(self, config: Any) -> dict[str, Any]:
        dialect = config.db.dialect
        return {"default": dialect.default_isolation_level, "supported": dialect.get_isolation_level_values(None)}


Requirements = type("Requirements", (_Measured,), {name: exclusions.open() for name in _MET})
