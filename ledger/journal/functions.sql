-- The functions and triggers of the ledger, and the types of the rows that travel in a batch. `caduceus migrate` runs
-- this file each time, after the migrations of the tables: every statement may be repeated. A function whose arguments
-- or result change needs a `DROP FUNCTION IF EXISTS` with its old arguments above it.
--
-- From 0.1.0 on processes of two versions may use one database. What changes its meaning must then change its name too:
-- a row type with other fields, and each function that takes it.

-- Rows of a batch -----------------------------------------------------------------------------------------------------

-- The fields and their order are those of the classes in ledger/journal/writes.py. A type that is in the database with
-- the same fields stays as it is, because connections know it by its number.
DO $$
DECLARE
    wanted record;
    found_fields text;
    wanted_fields text;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('checkpoint_row', 'request_id uuid, endpoint text, prompt integer, cached integer, completion integer,
                reasoning integer'),
            -- Of a finished request; all but the last two are columns of `request`.
            ('settlement_row', 'id uuid, tenant_id bigint, key_id bigint, account_id bigint, state text, swept boolean,
                surface text, model text, endpoint text, region text, prompt_tokens integer, cached_tokens integer,
                completion_tokens integer, reasoning_tokens integer, usage_source text, hold_pusd bigint,
                charge_pusd bigint, sandbox_charge_pusd bigint, cost_pusd bigint, disputed_pusd bigint,
                overrun_pusd bigint, flags text[], lines json, costs json, attempts json, upstream_contacted boolean,
                ttft_ms integer, total_ms integer, user_label text, metadata json'),
            -- `credit` is null where the process does not know the account, which then is the one of the kind `payable`
            -- of `provider`.
            ('transfer_row', 'id uuid, ordinal smallint, debit bigint, credit bigint, amount bigint, kind text,
                payable text, provider text'),
            ('hold_row', 'request_id uuid, account_id bigint, tenant_id bigint, key_id bigint, amount bigint,
                credit_limit bigint, owner bigint, expires_after_s double precision, pins json'),
            ('claim_row', 'request_id uuid, id bytea, body bytea'),
            -- `whole`: the answer is complete, and `sealed` is null where it is too large to be kept. Else the claim is
            -- given up.
            ('answer_row', 'request_id uuid, whole boolean, sealed bytea')
        ) AS row_type (name, fields)
    LOOP
        wanted_fields := regexp_replace(wanted.fields, '\s+', ' ', 'g');
        found_fields := (
            SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
            FROM pg_attribute WHERE attrelid = to_regclass(wanted.name) AND attnum > 0 AND NOT attisdropped);
        IF found_fields IS DISTINCT FROM wanted_fields THEN
            EXECUTE format('DROP TYPE IF EXISTS %I CASCADE', wanted.name);  -- and the functions that take it
            EXECUTE format('CREATE TYPE %I AS (%s)', wanted.name, wanted_fields);
        END IF;
    END LOOP;
END $$;

-- Triggers ------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION count_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE change_counter SET version = version + 1;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: post a correction instead', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

-- Only where they are missing: making a trigger waits for whoever writes the table.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT 'counted' AS name, 'AFTER INSERT OR UPDATE OR DELETE ON %I FOR EACH STATEMENT' AS event,
            'count_change' AS action, unnest(ARRAY['tenant', 'api_key', 'plan', 'price']) AS target
        UNION ALL
        SELECT 'append_only', 'BEFORE UPDATE OR DELETE ON %I FOR EACH ROW', 'refuse_change', unnest(ARRAY[
            'transfer', 'request', 'correction', 'credit', 'price', 'invoice', 'invoice_line', 'audit_log'])
        UNION ALL
        SELECT 'never_truncated', 'BEFORE TRUNCATE ON %I FOR EACH STATEMENT', 'refuse_change', unnest(ARRAY[
            'transfer', 'request', 'correction', 'credit', 'price', 'invoice', 'invoice_line', 'audit_log',
            'transfer_default', 'request_default'])
    LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(wanted.target) AND tgname = wanted.name) THEN
            EXECUTE format('CREATE TRIGGER %I ' || wanted.event || ' EXECUTE FUNCTION %I()',
                wanted.name, wanted.target, wanted.action);
        END IF;
    END LOOP;
END $$;

-- Partitions ----------------------------------------------------------------------------------------------------------

-- The smallest UUIDv7 of an instant.
CREATE OR REPLACE FUNCTION lowest_id(at timestamptz) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$
    SELECT rpad(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;

-- Makes the partitions of last month (clocks differ), of this month and of `months` to come, where they are missing.
-- Attaching one locks the default partition. Where a long report reads that, this gives up at once and leaves it to the
-- next attempt, because all requests would have to wait behind it. Runs as the owner of the tables.
CREATE OR REPLACE FUNCTION ensure_partitions(months integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    parent text;
    part text;
    first_day timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('caduceus.ensure_partitions'));
    FOR ahead IN -1 .. least(months, 24) LOOP
        first_day := (date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + ahead * interval '1 month')
            AT TIME ZONE 'UTC';
        FOREACH parent IN ARRAY ARRAY['transfer', 'request', 'request_label'] LOOP
            part := parent || to_char(first_day AT TIME ZONE 'UTC', '_YYYY_MM');
            CONTINUE WHEN to_regclass('public.' || part) IS NOT NULL;
            EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING ALL)', part, parent);
            EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)', parent,
                part, lowest_id(first_day),
                lowest_id((first_day AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC'));
            IF parent <> 'request_label' THEN
                EXECUTE format('CREATE TRIGGER never_truncated BEFORE TRUNCATE ON public.%I'
                    ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', part);
            END IF;
        END LOOP;
    END LOOP;
EXCEPTION WHEN lock_not_available THEN
    RAISE WARNING 'partitions are left for later: the journal is being read';
END $$;

REVOKE EXECUTE ON FUNCTION ensure_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_partitions TO caduceus_serving;

-- The group commit ----------------------------------------------------------------------------------------------------

-- Posts one batch in one transaction: checkpoints, then holds given back, then settlements with their transfers and the
-- answers that some of them leave, then new holds with the claims that some of them make. `accounts` are all that it
-- touches; parts may be empty. Everything may be posted again and changes nothing.
-- Returns for each hold, in order, its outcome (0 held, 1 not enough credit, 2 beyond the key's budget, 3 the request
-- is over already, 4 its claim is taken) and how much could be held after it.
CREATE OR REPLACE FUNCTION post_batch(
    accounts bigint[], checkpoints checkpoint_row[], voids uuid[], settlements settlement_row[],
    transfers transfer_row[], holds hold_row[], claims claim_row[], answers answer_row[],
    OUT outcomes smallint[], OUT affordable bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    posted timestamptz;
BEGIN
    IF EXISTS (SELECT FROM unnest(transfers) AS given WHERE given.credit IS NULL) THEN
        transfers := with_payables(transfers);
    END IF;
    PERFORM 1 FROM account WHERE id = ANY (accounts) ORDER BY id FOR UPDATE;
    -- After the lock: an invoice that held the lock before has closed its period at an earlier instant.
    posted := clock_timestamp();
    IF cardinality(checkpoints) > 0 THEN
        PERFORM post_checkpoints(checkpoints, posted);
    END IF;
    IF cardinality(voids) > 0 THEN
        PERFORM post_voids(voids);
        DELETE FROM claim WHERE request_id = ANY (voids) AND finished_at IS NULL;
    END IF;
    IF cardinality(settlements) > 0 THEN
        PERFORM post_settlements(settlements, transfers, posted);
    END IF;
    IF cardinality(answers) > 0 THEN
        PERFORM post_answers(answers, posted);
    END IF;
    IF cardinality(claims) > 0 THEN
        SELECT * INTO outcomes, affordable FROM post_claiming_holds(holds, claims, posted);
    ELSIF cardinality(holds) > 0 THEN
        SELECT * INTO outcomes, affordable FROM post_holds(holds, posted);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION post_checkpoints(checkpoints checkpoint_row[], posted timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE hold
    SET checkpointed_at = posted, checkpoint_endpoint = given.endpoint, checkpoint_prompt = given.prompt,
        checkpoint_cached = given.cached, checkpoint_completion = given.completion,
        checkpoint_reasoning = given.reasoning
    FROM unnest(checkpoints) AS given
    WHERE hold.request_id = given.request_id;
END $$;

CREATE OR REPLACE FUNCTION post_voids(voids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
BEGIN
    WITH released AS (
        DELETE FROM hold WHERE request_id = ANY (voids) RETURNING account_id, amount
    ), by_account AS (
        SELECT account_id, sum(amount) AS amount FROM released GROUP BY account_id
    ), balanced AS (
        SELECT move_balances(array_agg(account_id), array_agg(amount), array_agg(-amount)) FROM by_account
    )
    SELECT count(*) INTO changed FROM balanced;
END $$;

-- Writes the requests with their transfers and labels, releases the holds, and moves the balances. A settlement whose
-- request is written already goes on to `post_late_settlements`.
CREATE OR REPLACE FUNCTION post_settlements(
    settlements settlement_row[], transfers transfer_row[], posted timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    written_rows bigint;
BEGIN
    WITH given AS MATERIALIZED (
        SELECT * FROM unnest(settlements)
    ), released AS (
        DELETE FROM hold WHERE request_id = ANY (ARRAY(SELECT id FROM given)) RETURNING request_id, amount
    ), written AS (
        INSERT INTO request (id, tenant_id, key_id, account_id, state, swept, surface, model, endpoint, region,
            prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, usage_source,
            hold_pusd, charge_pusd,
            sandbox_charge_pusd, cost_pusd, disputed_pusd, overrun_pusd,
            flags,
            lines, costs, attempts, upstream_contacted, ttft_ms, total_ms, posted_at)
        SELECT id, tenant_id, key_id, account_id, state, swept, surface, model, endpoint, region,
            prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, usage_source,
            coalesce(released.amount, hold_pusd), charge_pusd,
            sandbox_charge_pusd, cost_pusd, disputed_pusd, overrun_pusd,
            CASE WHEN released.amount IS NULL AND charge_pusd > 0 THEN flags || 'without_hold'::text ELSE flags END,
            lines, costs, attempts, upstream_contacted, ttft_ms, total_ms, posted
        FROM given LEFT JOIN released ON released.request_id = given.id
        ON CONFLICT DO NOTHING
        RETURNING id, account_id, key_id, charge_pusd
    ), moved AS (
        INSERT INTO transfer (transaction_id, ordinal, debit_account, credit_account, amount, kind, posted_at)
        SELECT t.id, t.ordinal, t.debit, t.credit, t.amount, t.kind, posted
        FROM unnest(transfers) AS t JOIN written ON written.id = t.id
    ), labelled AS (
        INSERT INTO request_label (request_id, tenant_id, user_label, metadata)
        SELECT id, tenant_id, user_label, metadata
        FROM given WHERE num_nonnulls(user_label, metadata) > 0
        ON CONFLICT DO NOTHING
    ), spent AS (
        INSERT INTO key_month (key_id, month, charged_pusd)
        SELECT key_id, date_trunc('month', posted AT TIME ZONE 'UTC')::date, sum(charge_pusd)
        FROM written WHERE charge_pusd > 0 GROUP BY key_id ORDER BY key_id
        ON CONFLICT (key_id, month) DO UPDATE SET charged_pusd = key_month.charged_pusd + excluded.charged_pusd
    ), by_account AS (
        SELECT account_id, count(*) AS rows, sum(coalesce(amount, 0)) AS released, sum(charge_pusd) AS charged
        FROM written LEFT JOIN released ON released.request_id = written.id GROUP BY account_id
    ), balanced AS (
        SELECT move_balances(array_agg(account_id), array_agg(released - charged), array_agg(-released)) FROM by_account
    )
    SELECT coalesce(sum(rows), 0) INTO written_rows FROM by_account, balanced;
    IF written_rows < cardinality(settlements) THEN
        PERFORM post_late_settlements(settlements, transfers, posted);
    END IF;
END $$;

-- Of the settlements whose hold a sweep has settled by estimate: reverses what the sweep posted and replaces it, once.
CREATE OR REPLACE FUNCTION post_late_settlements(
    settlements settlement_row[], transfers transfer_row[], posted timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[] := ARRAY(SELECT id FROM unnest(settlements) ORDER BY id);
    changed bigint;
BEGIN
    WITH swept AS MATERIALIZED (
        SELECT * FROM request
        WHERE id = ANY (ids) AND id BETWEEN ids[1] AND ids[cardinality(ids)] AND request.swept
    ), late AS (
        INSERT INTO correction (request_id, tenant_id, difference_pusd, sandbox_difference_pusd, prompt_tokens,
            cached_tokens, completion_tokens, reasoning_tokens, usage_source, lines, costs, posted_at)
        SELECT given.id, swept.tenant_id, given.charge_pusd - swept.charge_pusd,
            given.sandbox_charge_pusd - swept.sandbox_charge_pusd, given.prompt_tokens, given.cached_tokens,
            given.completion_tokens, given.reasoning_tokens, given.usage_source, given.lines, given.costs, posted
        FROM unnest(settlements) AS given JOIN swept ON swept.id = given.id AND NOT given.swept
        ON CONFLICT DO NOTHING
        RETURNING request_id, difference_pusd
    ), reversed AS (
        INSERT INTO transfer (transaction_id, ordinal, debit_account, credit_account, amount, kind,
            corrects_transaction, corrects_ordinal, posted_at)
        SELECT t.transaction_id, 100 + t.ordinal, t.credit_account, t.debit_account, t.amount, 'reversal',
            t.transaction_id, t.ordinal, posted
        FROM transfer AS t
        WHERE transaction_id = ANY (ARRAY(SELECT request_id FROM late))
            AND transaction_id BETWEEN ids[1] AND ids[cardinality(ids)]
    ), replaced AS (
        INSERT INTO transfer (transaction_id, ordinal, debit_account, credit_account, amount, kind, posted_at)
        SELECT t.id, 200 + t.ordinal, t.debit, t.credit, t.amount, t.kind, posted
        FROM unnest(transfers) AS t JOIN late ON late.request_id = t.id
    ), spent AS (
        INSERT INTO key_month (key_id, month, charged_pusd)
        SELECT key_id, date_trunc('month', posted AT TIME ZONE 'UTC')::date, sum(difference_pusd)
        FROM late JOIN swept ON swept.id = late.request_id GROUP BY key_id ORDER BY key_id
        ON CONFLICT (key_id, month) DO UPDATE SET charged_pusd = key_month.charged_pusd + excluded.charged_pusd
    ), by_account AS (
        SELECT account_id, sum(difference_pusd) AS difference
        FROM late JOIN swept ON swept.id = late.request_id GROUP BY account_id
    ), balanced AS (
        SELECT move_balances(array_agg(account_id), array_agg(-difference), array_agg(0::numeric)) FROM by_account
    )
    SELECT count(*) INTO changed FROM balanced;
END $$;

-- An answer that comes after its hold was swept changes nothing: the claim is gone, or is another request's.
CREATE OR REPLACE FUNCTION post_answers(answers answer_row[], posted timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM claim
    WHERE finished_at IS NULL
        AND request_id = ANY (ARRAY(SELECT given.request_id FROM unnest(answers) AS given WHERE NOT given.whole));
    UPDATE claim SET finished_at = posted, answer = given.sealed
    FROM unnest(answers) AS given
    WHERE claim.request_id = given.request_id AND given.whole AND claim.finished_at IS NULL;
END $$;

-- Grants holds in the order of their arrival. One that is too large is refused and does not keep out those after it.
CREATE OR REPLACE FUNCTION post_holds(
    holds hold_row[], posted timestamptz, OUT outcomes smallint[], OUT affordable bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    -- `= ANY (ids)` always takes the index; BETWEEN the first and the last prunes partitions, which ANY does not.
    ids uuid[] := ARRAY(SELECT request_id FROM unnest(holds) ORDER BY request_id);
    held_ids uuid[] := ARRAY(SELECT request_id FROM hold WHERE request_id = ANY (ids));
    over_ids uuid[] := ARRAY(
        SELECT id FROM request WHERE id = ANY (ids) AND id BETWEEN ids[1] AND ids[cardinality(ids)]);
    entry record;
    current_account bigint := 0;
    left_pusd numeric;  -- of the account: available - owed
    budgets jsonb := '{}';  -- of the keys that have one: what is left of it
    left_of_budget numeric;
    credit_pusd numeric;
    changed bigint;
BEGIN
    outcomes := array_fill(0::smallint, ARRAY[cardinality(holds)]);
    affordable := array_fill(0::bigint, ARRAY[cardinality(holds)]);
    FOR entry IN
        SELECT given.ordinality AS place, given.account_id, given.key_id, given.amount, given.credit_limit,
            account.available - account.owed AS position_pusd, api_key.budget_pusd,
            given.request_id = ANY (held_ids) AS is_held, given.request_id = ANY (over_ids) AS is_over
        FROM unnest(holds) WITH ORDINALITY AS given
        LEFT JOIN account ON account.id = given.account_id AND account.kind = 'tenant'
        LEFT JOIN api_key ON api_key.id = given.key_id AND api_key.budget_pusd IS NOT NULL
        ORDER BY given.account_id, given.ordinality
    LOOP
        IF entry.position_pusd IS NULL THEN
            RAISE EXCEPTION 'account % is no tenant''s', entry.account_id USING ERRCODE = 'foreign_key_violation';
        END IF;
        IF entry.account_id <> current_account THEN
            current_account := entry.account_id;
            left_pusd := entry.position_pusd;
        END IF;
        credit_pusd := left_pusd + entry.credit_limit;
        IF entry.budget_pusd IS NOT NULL THEN
            left_of_budget := coalesce((budgets ->> entry.key_id::text)::numeric,
                entry.budget_pusd - spent_of_key(entry.key_id, posted));
        ELSE
            left_of_budget := credit_pusd;
        END IF;
        IF entry.is_over THEN
            outcomes[entry.place] := 3;
        ELSIF NOT entry.is_held AND entry.amount > credit_pusd THEN
            outcomes[entry.place] := 1;
        ELSIF NOT entry.is_held AND entry.amount > left_of_budget THEN
            outcomes[entry.place] := 2;
        ELSIF NOT entry.is_held THEN
            left_pusd := left_pusd - entry.amount;
            credit_pusd := credit_pusd - entry.amount;
            left_of_budget := left_of_budget - entry.amount;
        END IF;
        IF entry.budget_pusd IS NOT NULL THEN
            budgets := budgets || jsonb_build_object(entry.key_id, left_of_budget);
        END IF;
        affordable[entry.place] := least(greatest(least(credit_pusd, left_of_budget), 0), 9223372036854775807);
    END LOOP;
    WITH written AS (
        INSERT INTO hold (request_id, account_id, tenant_id, key_id, amount, owner, pins, created_at, expires_at)
        SELECT request_id, account_id, tenant_id, key_id, amount, owner, pins, posted,
            posted + make_interval(secs => expires_after_s)
        FROM unnest(holds) WITH ORDINALITY AS given
        WHERE outcomes[ordinality] = 0
        ON CONFLICT DO NOTHING
        RETURNING account_id, amount
    ), by_account AS (
        SELECT account_id, sum(amount) AS amount FROM written GROUP BY account_id
    ), balanced AS (
        SELECT move_balances(array_agg(account_id), array_agg(-amount), array_agg(amount)) FROM by_account
    )
    SELECT count(*) INTO changed FROM balanced;
END $$;

-- Posts holds some of which claim an Idempotency-Key. Those whose claim is free go on to `post_holds`, and make the
-- claim if they are held. Two requests that claim the same key are of one tenant, whose account is locked; of those in one
-- batch the first goes on. A claim that the same request made before is that of a batch that is posted again.
CREATE OR REPLACE FUNCTION post_claiming_holds(
    holds hold_row[], claims claim_row[], posted timestamptz, OUT outcomes smallint[], OUT affordable bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    ids bytea[] := ARRAY(SELECT given.id FROM unnest(claims) AS given);
    taken uuid[];
    free integer[];  -- the places in `holds` of those whose claim is free
    sub_outcomes smallint[];
    sub_affordable bigint[];
BEGIN
    DELETE FROM claim WHERE claim.id = ANY (ids) AND finished_at < posted - claim_kept();
    taken := ARRAY(
        SELECT given.request_id FROM unnest(claims) WITH ORDINALITY AS given
        LEFT JOIN claim ON claim.id = given.id
        WHERE claim.request_id <> given.request_id
            OR (claim.request_id IS NULL AND EXISTS (
                SELECT FROM unnest(claims) WITH ORDINALITY AS earlier
                WHERE earlier.id = given.id AND earlier.ordinality < given.ordinality)));
    free := ARRAY(
        SELECT ordinality::integer FROM unnest(holds) WITH ORDINALITY AS given
        WHERE request_id <> ALL (taken) ORDER BY ordinality);
    outcomes := array_fill(4::smallint, ARRAY[cardinality(holds)]);
    affordable := array_fill(0::bigint, ARRAY[cardinality(holds)]);
    IF cardinality(free) > 0 THEN
        SELECT * INTO sub_outcomes, sub_affordable
        FROM post_holds(ARRAY(SELECT holds[place] FROM unnest(free) AS place ORDER BY place), posted);
        FOR place IN 1 .. cardinality(free) LOOP
            outcomes[free[place]] := sub_outcomes[place];
            affordable[free[place]] := sub_affordable[place];
        END LOOP;
    END IF;
    INSERT INTO claim (id, body, request_id, claimed_at)
    SELECT given.id, given.body, given.request_id, posted
    FROM unnest(claims) AS given
    JOIN unnest(holds) WITH ORDINALITY AS held ON held.request_id = given.request_id
    WHERE outcomes[held.ordinality] = 0
    ON CONFLICT DO NOTHING;
END $$;

-- Adds `changes` to the balances of accounts and `held_changes` to what they hold. New credit first pays what is owed,
-- and a charge first takes what is available: available - owed is one signed number.
CREATE OR REPLACE FUNCTION move_balances(accounts bigint[], changes numeric[], held_changes numeric[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE account
    SET held = held + moved.held_change,
        available = greatest(available - owed + moved.change, 0),
        owed = greatest(-(available - owed + moved.change), 0)
    FROM unnest(accounts, changes, held_changes) AS moved (id, change, held_change)
    WHERE account.id = moved.id;
END $$;

-- `transfers` with the accounts of what we owe to providers, which are made where they are missing.
CREATE OR REPLACE FUNCTION with_payables(transfers transfer_row[]) RETURNS transfer_row[] LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account (kind, provider)
    SELECT DISTINCT payable, provider FROM unnest(transfers) WHERE credit IS NULL ORDER BY payable, provider
    ON CONFLICT DO NOTHING;
    RETURN ARRAY(
        SELECT ROW(given.id, ordinal, debit, coalesce(credit, account.id), amount, given.kind, payable,
            given.provider)::transfer_row
        FROM unnest(transfers) AS given
        LEFT JOIN account ON account.kind = payable AND account.provider = given.provider AND credit IS NULL);
END $$;

-- What counts against a key's budget: its charges of the UTC month of `at`, and everything that it holds.
CREATE OR REPLACE FUNCTION spent_of_key(key bigint, at timestamptz) RETURNS numeric STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT charged_pusd FROM key_month
            WHERE key_id = key AND month = date_trunc('month', at AT TIME ZONE 'UTC')::date), 0)
        + coalesce((SELECT sum(amount) FROM hold WHERE key_id = key), 0);
END $$;

-- For how long a finished claim answers.
CREATE OR REPLACE FUNCTION claim_kept() RETURNS interval IMMUTABLE LANGUAGE sql AS $$ SELECT interval '1 day' $$;
